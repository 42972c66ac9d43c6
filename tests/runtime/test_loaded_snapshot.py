"""What a snapshot may not say, whoever signed it."""

from types import SimpleNamespace

import pytest

from hotstart.store.bundle import BundleIndex
from hotstart.store.manifest import ManifestInvalid
from runtime.loaded_snapshot import (
    LoadedSnapshot,
    MemoryTooSmall,
    check_devices,
    require_memory,
)

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


def loaded(*sizes, memory_bytes=None):
    files = tuple(SimpleNamespace(size_bytes=size) for size in sizes)
    config = SimpleNamespace(memory_files=files, memory_bytes=memory_bytes)
    return LoadedSnapshot("snap:v1", "file:///s", None, config, None)


@pytest.mark.parametrize("limit_bytes", [None, 9 << 20, 10 << 20])
def test_a_limit_above_what_was_dumped_is_taken(limit_bytes):
    require_memory(loaded(5 << 20, 4 << 20), limit_bytes)


def test_a_limit_below_what_was_dumped_is_refused_with_one_that_would_do():
    with pytest.raises(MemoryTooSmall, match="snap:v1: its processes need 10 MiB") as refused:
        require_memory(loaded(5 << 20, (4 << 20) + 1), 9 << 20)
    assert "--memory 10m" in refused.value.hint


def test_the_limit_that_the_frozen_container_had_is_always_taken():
    """Pages that processes share are dumped once for each."""
    require_memory(loaded(20 << 20, memory_bytes=16 << 20), 16 << 20)
    with pytest.raises(MemoryTooSmall, match="need 16 MiB"):
        require_memory(loaded(20 << 20, memory_bytes=16 << 20), 12 << 20)
