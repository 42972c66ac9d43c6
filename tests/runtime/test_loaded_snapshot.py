"""What a snapshot may not say, whoever signed it."""

from types import SimpleNamespace

import pytest

from hotstart.store.bundle import BundleIndex
from hotstart.store.manifest import ManifestInvalid
from runtime.loaded_snapshot import check_devices

OWN, IMAGE, FOREIGN = ("a" * 64, "b" * 64, "c" * 64)


def manifest():
    def holder(device_id):
        return (SimpleNamespace(device_id=device_id),)

    return SimpleNamespace(
        devices=holder(OWN), image=lambda: SimpleNamespace(devices=holder(IMAGE))
    )


def test_a_bundle_fills_the_devices_of_its_snapshot_and_image():
    check_devices(manifest(), BundleIndex((OWN, IMAGE), (), ()))


def test_a_bundle_that_fills_another_images_device_is_refused():
    with pytest.raises(ManifestInvalid, match="another image"):
        check_devices(manifest(), BundleIndex((OWN, FOREIGN), (), ()))
