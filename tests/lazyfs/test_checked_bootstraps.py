"""A bootstrap is checked when it arrives, once; a bad one with the right digest is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from hotstart.core.digest import Digest
from hotstart.store.bootstrap_head import BootstrapInvalid, checksum, parse_head
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatVersionUnknown
from hotstart.store.layers import bootstrap_descriptor, raw_digest
from hotstart.store.zstd_frame import compress
from lazyfs import checked_bootstraps
from lazyfs.cache import Cache
from lazyfs.checked_bootstraps import (
    CHECK_VERSION,
    DevicesDisagree,
    KnownBad,
    checked_bootstrap,
)
from tests.fakes.memory_store import MemoryBlobs
from tests.lazyfs.node import Image, make_tree, running_node
from tests.waiting import wait_until

GOLDEN = Path(__file__).parents[1] / "golden" / "bootstrap.v1"
VERDICT = GOLDEN.with_name("bootstrap-verdict.v1")


class FakeDevice(NamedTuple):
    device_id: str
    pages: int


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


def test_the_golden_verdict_means_what_it_meant_and_is_written_as_before(cache, image, checks):
    content = GOLDEN.read_bytes()
    frame, blobs = compress(content), MemoryBlobs()
    blobs.put(Digest.of(frame), frame)
    devices = tuple(FakeDevice(*device) for device in parse_head(content).devices)
    spec = replace(image.spec, bootstrap=bootstrap_descriptor(frame, content), devices=devices)
    path = checked_bootstrap(cache, spec, blobs).with_suffix(".checked")
    assert path.read_bytes() == VERDICT.read_bytes()
    path.write_bytes(VERDICT.read_bytes())
    checked_bootstrap(cache, spec, blobs)
    assert len(checks) == 1


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


@pytest.fixture
def walks(monkeypatch):
    """What is to be walked through later: functions that do it."""
    later = []

    class Timer:
        def __init__(self, after_s, walk, args):
            later.append(lambda: walk(*args))

        def start(self):
            pass

    monkeypatch.setattr(checked_bootstraps.threading, "Timer", Timer)
    return later


def test_a_table_of_a_later_version_is_named_as_one(cache, image):
    (device,) = image.spec.devices
    table = bytearray(image.store.blobs.read(device.table.digest))
    table[8:10] = (2).to_bytes(2, "little")
    later, blobs = Descriptor.of(device.table.media_type, table), MemoryBlobs()
    blobs.put(later.digest, bytes(table))
    checked_bootstrap(cache, image.spec, image.store.blobs)
    spec = replace(image.spec, devices=(replace(device, table=later),))
    with pytest.raises(FormatVersionUnknown, match="chunk table: version 2"):
        checked_bootstrap(cache, spec, blobs)


def test_what_a_trusted_key_vouches_for_is_mounted_at_once_and_walked_through_later(
    cache, image, checks, walks
):
    vouched = replace(image.spec, is_vouched=True)
    assert vouched == image.spec
    for _ in range(2):
        checked_bootstrap(cache, vouched, image.store.blobs)
    assert checks == []
    with pytest.raises(DevicesDisagree):
        checked_bootstrap(cache, replace(vouched, devices=()), image.store.blobs)
    for walk in walks:
        walk()
    for spec in (vouched, image.spec):
        checked_bootstrap(cache, spec, image.store.blobs)
    assert len(checks) == 1
    assert len(walks) == 3


def test_the_walk_behind_a_mount_comes_by_itself(cache, image, monkeypatch):
    monkeypatch.setattr(checked_bootstraps, "WALK_AFTER_S", 0.0)
    path = checked_bootstrap(cache, replace(image.spec, is_vouched=True), image.store.blobs)
    wait_until(path.with_suffix(".checked").exists)


def test_what_others_see_unwalked_is_walked_through_before_their_mount(cache, image, checks, walks):
    checked_bootstrap(cache, replace(image.spec, is_vouched=True), image.store.blobs)
    checked_bootstrap(cache, image.spec, image.store.blobs)
    assert len(checks) == 1


@pytest.mark.parametrize("is_vouched", [True, False])
def test_a_vouched_one_that_proves_bad_is_refused_from_then_on(cache, image, walks, is_vouched):
    """Its head is right; the root's inode is not."""
    content = bytearray(GOLDEN.read_bytes())
    content[parse_head(bytes(content)).root_nid * 32 + 2] ^= 0xFF
    content[1028:1032] = checksum(bytes(content)).to_bytes(4, "little")
    blobs, frame = MemoryBlobs(), compress(bytes(content))
    blobs.put(Digest.of(frame), frame)
    devices = parse_head(bytes(content)).devices
    bad = replace(image.spec, bootstrap=bootstrap_descriptor(frame, content), is_vouched=True)
    bad = replace(bad, devices=tuple(FakeDevice(*device) for device in devices))
    checked_bootstrap(cache, bad, blobs)
    (walk,) = walks
    walk()
    with pytest.raises(KnownBad, match="inode"):
        checked_bootstrap(cache, replace(bad, is_vouched=is_vouched), blobs)


def test_a_vouched_one_with_a_verdict_of_another_version_is_walked_through_first(
    cache, image, checks, walks
):
    path = checked_bootstrap(cache, image.spec, image.store.blobs).with_suffix(".checked")
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({**kept, "version": CHECK_VERSION - 1}))
    checked_bootstrap(cache, replace(image.spec, is_vouched=True), image.store.blobs)
    assert len(checks) == 2
    assert walks == []


def test_a_walk_says_nothing_of_bytes_that_are_gone_or_others(cache, image, walks):
    path = checked_bootstrap(cache, replace(image.spec, is_vouched=True), image.store.blobs)
    (walk,) = walks
    path.write_bytes(b"damaged here")
    walk()
    path.unlink()
    walk()
    assert not path.with_suffix(".checked").exists()


@pytest.mark.kernel
def test_what_an_agent_mounted_and_did_not_live_to_walk_through_its_next_one_walks_through(
    tmp_path, image, monkeypatch
):
    with running_node(tmp_path / "node", idle_limit=4) as node:
        with monkeypatch.context() as patched:
            patched.setattr(checked_bootstraps, "_walk_later", lambda *_: None)
            node.mounts.mount(replace(image.spec, is_vouched=True), read_ahead_kib=64)
        verdict = node.cache.bootstrap_path(raw_digest(image.spec.bootstrap)).with_suffix(
            ".checked"
        )
        assert not verdict.exists()
        node.abandon()
        node.start()
        monkeypatch.setattr(checked_bootstraps, "WALK_AFTER_S", 0.0)
        assert node.mounts.adopt() == 1
        wait_until(verdict.exists)
