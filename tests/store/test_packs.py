"""Packs: what is put in comes out, in the order in which it was given."""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.store import packs
from hotstart.store.blob_store import StoreUnavailable
from hotstart.store.packs import (
    PackWriter,
    chunk_digest,
    compress,
    decode,
    decode_verified,
)
from tests.fakes.faulty_store import FaultyBlobs
from tests.fakes.memory_store import MemoryBlobs

SOURCE = random.Random(5)
CHUNKS = [
    SOURCE.randbytes(SOURCE.randint(1, 9000)) if number % 3 else b"%d" % number * 900
    for number in range(300)
]


def write(blobs, target_size=100_000):
    with PackWriter(blobs, target_size=target_size) as writer:
        placements = [writer.add(chunk) for chunk in CHUNKS]
        packs = writer.finish()
    return packs, placements


def test_every_chunk_is_where_its_placement_says():
    blobs = MemoryBlobs()
    packs, placements = write(blobs)
    for chunk, placed in zip(CHUNKS, placements, strict=True):
        pack = blobs.read(packs[placed.pack].digest)
        stored = pack[placed.offset : placed.offset + placed.stored_length]
        assert decode(stored, placed.raw, len(chunk)) == chunk


def test_packs_are_full_but_not_over_full_and_hold_nothing_else():
    blobs = MemoryBlobs()
    packs, placements = write(blobs)
    assert len(packs) > 3
    for number, pack in enumerate(packs):
        inside = [placed for placed in placements if placed.pack == number]
        assert pack.size == sum(placed.stored_length for placed in inside) <= 100_000
        assert pack.size == blobs.size(pack.digest)
        assert [p.offset for p in inside] == sorted(p.offset for p in inside)


def test_the_same_chunks_give_the_same_packs():
    assert write(MemoryBlobs()) == write(MemoryBlobs())


def test_a_pack_keeps_its_bytes_though_its_buffer_is_used_again():
    stored = threading.Event()

    class Slow(MemoryBlobs):
        def put(self, digest, content, **checked):
            assert stored.wait(10)
            super().put(digest, content, **checked)

    blobs = Slow()
    with PackWriter(blobs, target_size=1000) as writer:
        for number in range(2):
            writer.append(b"%d" % number * 1000, raw=True)
        stored.set()
        for number in range(2, 6):
            writer.append(b"%d" % number * 1000, raw=True)
        packs = writer.finish()
    assert [bytes(blobs.read(pack.digest))[:1] for pack in packs] == [b"%d" % n for n in range(6)]


def test_no_more_than_two_full_packs_wait_for_the_store():
    made = []
    buffers = PackWriter._buffer

    class Counting(PackWriter):
        def _buffer(self, length):
            made.append(buffers(self, length))
            return made[-1]

    with Counting(MemoryBlobs(), target_size=1000) as writer:
        for _ in range(50):
            writer.append(bytes(1000), raw=True)
        writer.finish()
    assert len(set(map(id, made))) <= 3


def test_a_chunk_larger_than_a_pack_is_a_pack_of_its_own():
    blobs = MemoryBlobs()
    with PackWriter(blobs, target_size=1000) as writer:
        placed = [writer.add(os.urandom(5000)) for _ in range(2)]
        packs = writer.finish()
    assert [place.pack for place in placed] == [0, 1]
    assert [pack.size for pack in packs] == [5000, 5000]


def test_add_may_be_called_from_many_threads():
    blobs = MemoryBlobs()
    with PackWriter(blobs, target_size=50_000) as writer:
        with ThreadPoolExecutor(8) as pool:
            placements = list(pool.map(writer.add, CHUNKS))
        packs = writer.finish()
    for chunk, placed in zip(CHUNKS, placements, strict=True):
        pack = blobs.read(packs[placed.pack].digest)
        stored = pack[placed.offset : placed.offset + placed.stored_length]
        assert decode(stored, placed.raw, len(chunk)) == chunk


def test_no_chunk_makes_no_pack():
    with PackWriter(MemoryBlobs()) as writer:
        assert writer.finish() == ()


def test_a_store_that_fails_fails_the_writer():
    def write_one():
        with PackWriter(FaultyBlobs(MemoryBlobs(), "timeout")) as writer:
            writer.add(b"chunk")
            writer.finish()

    with pytest.raises(StoreUnavailable):
        write_one()


def test_packs_are_named_while_they_are_on_their_way_and_stored_when_the_block_is_left():
    goes_on = threading.Event()

    class Slow(MemoryBlobs):
        def put(self, digest, content, **checked):
            assert goes_on.wait(10)
            super().put(digest, content, **checked)

    blobs = Slow()
    with PackWriter(blobs) as writer:
        writer.add(b"chunk")
        (pack,) = writer.finish()
        assert not blobs.has(pack.digest)
        goes_on.set()
    assert blobs.has(pack.digest)


def test_a_failed_upload_stops_a_long_writer_early():
    faulty = FaultyBlobs(MemoryBlobs(), "timeout " * 100)

    def write_much():
        with PackWriter(faulty, target_size=10_000) as writer:
            for _ in range(10):
                for chunk in CHUNKS:
                    writer.add(chunk)
            writer.finish()

    with pytest.raises(StoreUnavailable):
        write_much()
    assert faulty.calls < 50


def test_leaving_by_an_exception_stores_nothing_more():
    blobs = MemoryBlobs()

    class Stop(Exception):
        pass

    def stop():
        with PackWriter(blobs) as writer:
            writer.add(b"chunk")
            raise Stop

    with pytest.raises(Stop):
        stop()
    assert list(blobs.digests()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("store-pack")]


def test_a_closed_writer_takes_no_chunk():
    with PackWriter(MemoryBlobs()) as writer:
        writer.finish()
        with pytest.raises(RuntimeError, match="closed"):
            writer.add(b"late")


def test_what_does_not_compress_is_stored_as_it_is():
    content = os.urandom(10_000)
    stored, raw = compress(content)
    assert raw
    assert stored is content
    assert compress(b"a" * 10_000)[1] is False
    # 8 % of savings are below the threshold of 12 %.
    barely = os.urandom(9200) + bytes(800)
    assert compress(barely)[1] is True


def test_a_flipped_byte_of_a_stored_chunk_is_found():
    for content in (b"a" * 9000, os.urandom(9000)):
        stored, raw = compress(content)
        digest = chunk_digest(content)
        good = decode_verified(
            bytes(stored), raw=raw, length=len(content), digest=digest, source="pack"
        )
        assert bytes(good) == content
        other = bytes(reversed(content)) if raw else bytes(compress(b"b" * 9000)[0])
        with pytest.raises(DigestMismatch, match="pack"):
            decode_verified(other, raw=raw, length=len(content), digest=digest, source="pack")


def test_pack_digests_are_those_of_their_bytes():
    blobs = MemoryBlobs()
    packs, _ = write(blobs)
    assert all(Digest.of(blobs.read(pack.digest)) == pack.digest for pack in packs)


def test_a_pack_that_cannot_be_named_fails_the_writer_and_leaves_nobody_waiting(monkeypatch):
    def fail(content):
        raise MemoryError

    def write_one():
        with PackWriter(MemoryBlobs()) as writer:
            writer.append(b"chunk", raw=True)
            writer.finish()

    monkeypatch.setattr(packs.Digest, "of", fail)
    with pytest.raises(MemoryError):
        write_one()
