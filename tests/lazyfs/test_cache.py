"""The cache: a bootstrap is used only when every byte is right, whoever changed it."""

import random

import pytest

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.store.layers import ManifestInvalid, bootstrap_descriptor
from hotstart.store.zstd_frame import compress
from lazyfs.cache import RANGE_BYTES, Cache
from tests.fakes.faulty_store import FaultyBlobs
from tests.fakes.memory_store import MemoryBlobs


def stored(content):
    frame = compress(content)
    blobs = MemoryBlobs()
    blobs.put(Digest.of(frame), frame)
    return bootstrap_descriptor(frame, content), blobs


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


def test_a_bootstrap_is_fetched_once(cache):
    descriptor, inner = stored(b"metadata" * 1000)
    blobs = FaultyBlobs(inner, "")
    assert cache.bootstrap(descriptor, blobs).read_bytes() == b"metadata" * 1000
    assert cache.bootstrap(descriptor, blobs) == cache.bootstrap(descriptor, blobs)
    assert blobs.calls == 1


def test_a_large_bootstrap_comes_in_ranges(cache):
    content = bytes(range(256)) * 2000 + Digest.of(b"").hex.encode() * 20000

    content += random.Random(1).randbytes(3 * RANGE_BYTES)
    descriptor, inner = stored(content)
    blobs = FaultyBlobs(inner, "")
    assert cache.bootstrap(descriptor, blobs).read_bytes() == content
    assert blobs.calls == 4


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_damaged_local_bootstrap_is_never_mounted(cache, position):
    content = b"metadata" * 1000
    descriptor, blobs = stored(content)
    path = cache.bootstrap(descriptor, blobs)
    bad = bytearray(content)
    bad[position] ^= 1
    path.write_bytes(bad)
    assert cache.bootstrap(descriptor, blobs).read_bytes() == content


def test_a_truncated_local_bootstrap_is_fetched_again(cache):
    descriptor, blobs = stored(b"metadata" * 1000)
    cache.bootstrap(descriptor, blobs).write_bytes(b"meta")
    assert cache.bootstrap(descriptor, blobs).read_bytes() == b"metadata" * 1000


def test_wrong_bytes_from_the_store_leave_nothing(cache):
    descriptor, _ = stored(b"metadata" * 1000)
    _, others = stored(b"metadatb" * 1000)
    lying = MemoryBlobs()
    lying.contents[descriptor.digest] = next(iter(others.contents.values()))
    with pytest.raises(DigestMismatch):
        cache.bootstrap(descriptor, lying)
    assert list(cache.bootstraps.iterdir()) == []


def test_a_bootstrap_that_came_wrong_is_fetched_once_more(cache):
    content = b"metadata" * 1000
    descriptor, inner = stored(content)
    blobs = FaultyBlobs(inner, "corrupt ok")
    assert cache.bootstrap(descriptor, blobs).read_bytes() == content
    assert blobs.calls == 2


def test_a_descriptor_that_names_no_bootstrap_is_refused(cache):
    descriptor, blobs = stored(b"x")
    with pytest.raises(ManifestInvalid):
        cache.bootstrap(type(descriptor)("text/plain", descriptor.digest, 1), blobs)
