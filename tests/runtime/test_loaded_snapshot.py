"""What a snapshot may not say, whoever signed it; and what is not believed unless somebody did."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent.pulls import manifest_of
from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.span import PAGE
from hotstart.store import manifest as manifest_module
from hotstart.store import media_types
from hotstart.store.bundle import BundleIndex, BundleWriter
from hotstart.store.descriptor import Descriptor
from hotstart.store.manifest import ManifestInvalid
from hotstart.store.page_runs import Run
from hotstart.store.references import ReferenceName
from hotstart.store.signing import NodeKey, sign
from lazyfs.plans import BundlePlan, plan_from_json, plan_to_json
from lazyfs.prefetch import Prefetcher
from runtime.loaded_image import load_image
from runtime.loaded_snapshot import (
    LoadedSnapshot,
    MemoryTooSmall,
    check_devices,
    load_snapshot,
    require_memory,
)
from tests.lazyfs.small_device import SmallDevice, expected
from tests.store import samples

OWN, IMAGE, FOREIGN = ("a" * 64, "b" * 64, "c" * 64)
POISONED_PAGES = 11


def manifest():
    def holder(device_id):
        return (SimpleNamespace(device_id=device_id),)

    return SimpleNamespace(
        devices=holder(OWN), image=lambda: SimpleNamespace(devices=holder(IMAGE))
    )


def test_a_bundle_fills_the_devices_of_its_snapshot_and_image_and_no_others():
    check_devices(manifest(), BundleIndex((OWN, IMAGE), (), ()))
    with pytest.raises(ManifestInvalid, match="another image"):
        check_devices(manifest(), BundleIndex((OWN, FOREIGN), (), ()))


def dumped(*sizes, memory_bytes=None):
    files = tuple(SimpleNamespace(size_bytes=size) for size in sizes)
    config = SimpleNamespace(memory_files=files, memory_bytes=memory_bytes)
    return LoadedSnapshot("snap:v1", "file:///s", None, config, None)


def test_any_limit_from_what_was_dumped_on_is_taken_and_none_is_no_limit():
    for limit_bytes in (None, 10 << 20, 9 << 20):
        require_memory(dumped(5 << 20, 4 << 20), limit_bytes)
    with pytest.raises(MemoryTooSmall):
        require_memory(dumped(5 << 20, 4 << 20), (9 << 20) - 1)


def test_a_limit_below_what_was_dumped_is_refused_with_one_that_would_do():
    with pytest.raises(MemoryTooSmall, match="snap:v1: its processes need 10 MiB") as refused:
        require_memory(dumped(5 << 20, (4 << 20) + 1), 9 << 20)
    assert "--memory 10m" in refused.value.hint


def test_the_limit_that_the_frozen_container_had_is_always_taken():
    """Pages that processes share are dumped once for each."""
    require_memory(dumped(20 << 20, memory_bytes=16 << 20), 16 << 20)
    with pytest.raises(MemoryTooSmall, match="need 16 MiB"):
        require_memory(dumped(20 << 20, memory_bytes=16 << 20), 12 << 20)


@pytest.fixture
def small(tmp_path):
    return SmallDevice(tmp_path)


@pytest.fixture
def key(tmp_path):
    return NodeKey.load_or_create(tmp_path / "key")


def poisoned(small):
    """A snapshot whose bundle has wrong bytes, under right digests of its own, for its image."""
    writer = BundleWriter((small.spec.device_id,), frame_bytes=2 * PAGE)
    writer.add(Run(0, 0, POISONED_PAGES), b"poison!!" * (POISONED_PAGES * PAGE // 8))
    content, index = writer.finish()
    small.store.blobs.put(Digest.of(content), content)
    base = samples.snapshot()
    image = replace(base.image(), devices=(small.descriptor,))
    return replace(
        base,
        subject=image.descriptor(inline=True),
        bundle=Descriptor.of(media_types.BUNDLE, content),
        bundle_index=Descriptor.of(media_types.BUNDLE_INDEX, index.encode(), inline=True),
    )


def loaded(small, snapshot, trusted=()):
    descriptor = snapshot.descriptor()
    small.store.blobs.put(descriptor.digest, snapshot.to_bytes())
    small.store.references.swap(ReferenceName.parse("bad:v1"), descriptor, None)
    return load_snapshot(small.store, "bad:v1", trusted=trusted, trust_unsigned=True)


class Blobs:
    """Counts the bytes that are read."""

    def __init__(self, blobs):
        self.url, self._blobs, self.bytes = blobs.url, blobs, 0

    def read(self, digest, span=None):
        content = self._blobs.read(digest, span)
        self.bytes += len(content)
        return content


LIMIT = 1 << 16


@pytest.mark.parametrize("load", [load_image, load_snapshot, manifest_of])
@pytest.mark.parametrize(
    ("length", "said"), [(LIMIT + 1, 2), (LIMIT + 1, LIMIT), (LIMIT + 1, LIMIT + 1), (5, 6)]
)
def test_of_a_blob_that_is_no_manifest_no_more_is_read_than_its_reference_says(
    small, monkeypatch, load, length, said
):
    """Which may say a wrong size, of a blob that is larger than any manifest."""
    monkeypatch.setattr(manifest_module, "MAX_BYTES", LIMIT)
    target = Descriptor.of(media_types.OCI_MANIFEST, bytes(length))
    small.store.blobs.put(target.digest, bytes(length))
    small.store.references.swap(ReferenceName.parse("bad:v1"), replace(target, size=said), None)
    blobs = Blobs(small.store.blobs)
    words = {"trusted": ()} if load is load_snapshot else {}
    with pytest.raises((ManifestInvalid, DigestMismatch)):
        load(replace(small.store, blobs=blobs), "bad:v1", **words)
    assert blobs.bytes in (0, 2 * said)  # read once more: a byte may be flipped on its way
    assert blobs.bytes <= 2 * LIMIT


@pytest.mark.parametrize("signed", [False, True])
def test_a_snapshot_that_no_trusted_key_signed_puts_no_wrong_byte_into_its_image(
    small, key, signed
):
    snapshot = sign(poisoned(small), key) if signed else poisoned(small)
    plan = plan_from_json(plan_to_json(loaded(small, snapshot).bundle_plan()))
    with small.engine() as (engine, device):
        job = Prefetcher(engine).start(plan, {device.device_id: device})
        assert job.done.wait(20)
        assert job.error is None
        assert device.ready.missing(0, POISONED_PAGES) < 0, "the recorded pages are here"
        content = os.pread(device.fd, POISONED_PAGES * PAGE, 0)
    assert content == expected(small, 0, POISONED_PAGES)


def test_the_bundle_of_a_trusted_signer_is_streamed(small, key):
    plan = loaded(small, sign(poisoned(small), key), trusted=[key.public]).bundle_plan()
    assert isinstance(plan, BundlePlan)
