"""Chunk tables cost one round trip while they are small, and are never believed unverified."""

from dataclasses import replace

import pytest

from hotstart.core.errors import IntegrityError
from lazyfs import table_reader
from lazyfs.table_reader import open_table
from tests.lazyfs.small_device import HeldBlobs, SmallDevice


@pytest.fixture
def small(tmp_path):
    return SmallDevice(tmp_path)


def test_a_small_table_is_one_request(small):
    blobs = HeldBlobs(small.store.blobs)
    assert len(list(open_table(blobs, small.spec))) > 0
    assert len(blobs.reads) == 1


def test_a_large_table_is_read_part_by_part(small, monkeypatch):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", 0)
    blobs = HeldBlobs(small.store.blobs)
    table = open_table(blobs, small.spec)
    assert len(blobs.reads) == 1, "the head alone"
    assert list(table) == list(open_table(small.store.blobs, small.spec))
    assert len(blobs.reads) == 2


def test_a_table_that_only_a_foreign_manifest_vouches_for_is_not_believed(small, tmp_path):
    """The device is shared under the name of its table: another manifest's head won't do."""
    other = SmallDevice(tmp_path, seed=2)
    lie = replace(
        small.spec, head_digest=other.spec.head_digest, head_length=other.spec.head_length
    )
    content = other.store.blobs.read(other.table_digest)
    small.store.blobs.contents[small.table_digest] = content
    with pytest.raises(IntegrityError):
        open_table(small.store.blobs, replace(lie, table=replace(lie.table, size=len(content))))


@pytest.mark.parametrize("whole_bytes", [0, 2 << 20])
def test_any_flipped_byte_of_a_table_is_found(small, monkeypatch, whole_bytes):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", whole_bytes)
    good = small.store.blobs.read(small.table_digest)
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        small.store.blobs.contents[small.table_digest] = bytes(bad)
        with pytest.raises(IntegrityError):
            list(open_table(small.store.blobs, small.spec))
