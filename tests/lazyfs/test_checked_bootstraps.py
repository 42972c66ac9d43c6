"""A bootstrap is checked when it arrives, once; a bad one with the right digest is refused."""

import json
from dataclasses import replace

import pytest

from hotstart.core.digest import Digest
from hotstart.store.bootstrap_head import BootstrapInvalid
from hotstart.store.layers import bootstrap_descriptor
from hotstart.store.zstd_frame import compress
from lazyfs import checked_bootstraps
from lazyfs.cache import Cache
from lazyfs.checked_bootstraps import DevicesDisagree, checked_bootstrap
from tests.fakes.memory_store import MemoryBlobs
from tests.lazyfs.node import Image, make_tree


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=1), root / "store")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


@pytest.fixture
def checks(monkeypatch):
    """Counts checks."""
    done = []
    check = checked_bootstraps.check_bootstrap_image
    monkeypatch.setattr(
        checked_bootstraps, "check_bootstrap_image", lambda c: (done.append(1), check(c))[1]
    )
    return done


def test_it_is_checked_once_and_its_digest_each_time(cache, image, checks):
    for _ in range(3):
        path = checked_bootstrap(cache, image.spec, image.store.blobs)
    assert len(checks) == 1
    path.write_bytes(b"damaged")
    checked_bootstrap(cache, image.spec, image.store.blobs)
    assert Digest.of(path.read_bytes()).hex == path.stem


@pytest.mark.parametrize("change", [{"version": 0}, {"digest": "sha256:" + "0" * 64}, None])
def test_a_verdict_of_another_check_or_digest_counts_for_nothing(cache, image, checks, change):
    path = checked_bootstrap(cache, image.spec, image.store.blobs).with_suffix(".checked")
    kept = json.loads(path.read_bytes())
    path.write_text("{" if change is None else json.dumps({**kept, **change}))
    checked_bootstrap(cache, image.spec, image.store.blobs)
    assert len(checks) == 2
    assert json.loads(path.read_bytes()) == kept


def test_a_bad_bootstrap_with_its_right_digest_is_refused_each_time(cache, image):
    content = b"metadata" * 1024
    frame, blobs = compress(content), MemoryBlobs()
    blobs.put(Digest.of(frame), frame)
    spec = replace(image.spec, bootstrap=bootstrap_descriptor(frame, content))
    for _ in range(2):
        with pytest.raises(BootstrapInvalid):
            checked_bootstrap(cache, spec, blobs)
    assert not list(cache.bootstraps.glob("*.checked"))


def test_a_manifest_with_other_devices_than_its_bootstrap_names_is_refused(cache, image):
    (device,) = image.spec.devices
    larger = replace(device, size_bytes=device.size_bytes + 4096)
    for devices in ((), (larger,), (device, device)):
        with pytest.raises(DevicesDisagree):
            checked_bootstrap(cache, replace(image.spec, devices=devices), image.store.blobs)


def test_what_a_trusted_key_vouches_for_is_not_walked_through_but_is_for_others(
    cache, image, checks
):
    vouched = replace(image.spec, is_vouched=True)
    assert vouched == image.spec
    for _ in range(2):
        checked_bootstrap(cache, vouched, image.store.blobs)
    assert checks == []
    with pytest.raises(DevicesDisagree):
        checked_bootstrap(cache, replace(vouched, devices=()), image.store.blobs)
    checked_bootstrap(cache, image.spec, image.store.blobs)
    assert len(checks) == 1
