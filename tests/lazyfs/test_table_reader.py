"""Chunk tables cost one round trip while they are small, and are never believed unverified."""

from dataclasses import replace

import pytest

from hotstart.core.errors import IntegrityError
from hotstart.core.span import PAGE
from lazyfs import table_reader
from lazyfs.table_reader import open_table
from tests.lazyfs.small_device import HeldBlobs, SmallDevice

SIZES = pytest.mark.parametrize("whole_bytes", [0, table_reader.WHOLE_BYTES])
"""Tables are large, or small."""


@pytest.fixture
def verified(tmp_path):
    return tmp_path / "x.verified"


def test_a_small_table_is_one_request(small, verified):
    blobs = HeldBlobs(small.store.blobs)
    assert len(list(open_table(blobs, small.spec, verified))) > 0
    assert len(blobs.reads) == 1
    assert not verified.exists()


def test_a_large_table_is_read_through_once_and_then_part_by_part(small, verified, monkeypatch):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", 0)
    monkeypatch.setattr(table_reader, "PART_BYTES", 100)
    chunks = list(open_table(small.store.blobs, small.spec, verified))
    blobs = HeldBlobs(small.store.blobs)
    table = open_table(blobs, small.spec, verified)
    assert len(blobs.reads) == 1, "the head alone"
    assert list(table) == chunks
    assert len(blobs.reads) == 2


@pytest.fixture
def lie(small, tmp_path):
    """What a manifest says that gives the device another's head, and the table to it."""
    other = SmallDevice(tmp_path, seed=2)
    content = other.store.blobs.read(other.table_digest)
    head = {"head_digest": other.spec.head_digest, "head_length": other.spec.head_length}
    spec = replace(small.spec, table=replace(small.spec.table, size=len(content)), **head)
    return spec, content


@SIZES
def test_a_table_that_only_a_foreign_manifest_vouches_for_is_not_believed(
    small, lie, verified, monkeypatch, whole_bytes
):
    """The device is shared under the name of its table: another manifest's head won't do."""
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", whole_bytes)
    spec, small.store.blobs.contents[small.table_digest] = lie
    for _ in range(2):
        with pytest.raises(IntegrityError):
            open_table(small.store.blobs, spec, verified)


def test_what_was_verified_vouches_for_no_other_head(small, lie, verified, monkeypatch):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", 0)
    open_table(small.store.blobs, small.spec, verified)
    spec, small.store.blobs.contents[small.table_digest] = lie
    with pytest.raises(IntegrityError):
        open_table(small.store.blobs, spec, verified)


def test_a_store_that_gives_another_head_when_it_is_asked_again_is_found_out(
    small, lie, verified, monkeypatch
):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", 0)
    spec, content = lie
    good = small.store.blobs.read(small.table_digest)

    class TwoFaced:
        url = "mem://"

        def read(self, digest, span):
            source = good if span.length == len(good) else content
            return source[span.offset : span.end]

    with pytest.raises(IntegrityError):
        open_table(TwoFaced(), replace(spec, table=small.spec.table), verified)


def test_a_verdict_that_cannot_be_kept_costs_another_reading(small, tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", 0)
    blobs = HeldBlobs(small.store.blobs)
    for _ in range(2):
        open_table(blobs, small.spec, tmp_path / "absent" / "x.verified")
    assert len(blobs.reads) == 4


@SIZES
def test_any_flipped_byte_of_a_table_is_found(small, verified, monkeypatch, whole_bytes):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", whole_bytes)
    open_table(small.store.blobs, small.spec, verified)
    good = small.store.blobs.read(small.table_digest)
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        small.store.blobs.contents[small.table_digest] = bytes(bad)
        with pytest.raises(IntegrityError):
            list(open_table(small.store.blobs, small.spec, verified))


@SIZES
def test_a_device_of_another_size_than_its_table_says_is_refused(
    small, verified, monkeypatch, whole_bytes
):
    monkeypatch.setattr(table_reader, "WHOLE_BYTES", whole_bytes)
    for size in (small.spec.size_bytes - PAGE, small.spec.size_bytes - 1):
        with pytest.raises(IntegrityError):
            open_table(small.store.blobs, replace(small.spec, size_bytes=size), verified)
