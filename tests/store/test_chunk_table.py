"""Chunk tables: every chunk is found, nothing unverified is used, little is read."""

import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.span import PAGE, Span
from hotstart.store.chunk_table import CACHED_PAGES, ChunkTable, ChunkTableInvalid
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.manifest import Descriptor
from hotstart.store.media_types import PACK
from tests.fakes.memory_store import MemoryBlobs
from tests.store import samples

DERANDOMISED = settings(derandomize=True, max_examples=200, deadline=None)
MANY = samples.chunks(5000)
MANY_SIZE = MANY[-1].device_offset + MANY[-1].length
ENCODED = ChunkTable.encode(MANY, samples.PACKS, MANY_SIZE)
TABLE = ChunkTable.of_bytes(ENCODED.content)


class Reader:
    """Reads spans of a table and remembers them."""

    def __init__(self, content=ENCODED.content):
        self.content = content
        self.spans = []

    def __call__(self, span):
        self.spans.append(span)
        return self.content[span.offset : span.end]

    def table(self):
        return ChunkTable(
            self,
            len(self.content),
            head_length=ENCODED.head_length,
            head_digest=ENCODED.head_digest,
        )


def test_a_table_gives_back_its_chunks_and_packs():
    assert list(TABLE) == MANY
    assert len(TABLE) == len(MANY)
    assert TABLE.packs == samples.PACKS
    assert TABLE.device_size == MANY_SIZE


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049, 4096])
def test_tables_of_every_size_survive(count):
    encoded, size = samples.table(count)
    table = ChunkTable.of_bytes(encoded.content)
    assert list(table) == samples.chunks(count)
    assert table.device_size == size
    assert table.between(Span(0, size)) == samples.chunks(count)


@given(offset=st.integers(0, MANY_SIZE + PAGE), length=st.integers(0, 3_000_000))
@DERANDOMISED
def test_between_finds_exactly_the_chunks_that_touch(offset, length):
    expected = [
        chunk
        for chunk in MANY
        if length
        and chunk.device_offset < offset + length
        and chunk.device_offset + chunk.length > offset
    ]
    assert TABLE.between(Span(offset, length)) == expected


def test_a_hole_has_no_chunk_and_every_chunk_covers_its_ends():
    for before, after in itertools.pairwise(MANY[:500]):
        end = before.device_offset + before.length
        assert TABLE.at(before.device_offset) == before
        assert TABLE.at(end - 1) == before
        assert TABLE.at(end) == (after if after.device_offset == end else None)
    assert TABLE.at(MANY_SIZE) is None


def test_one_lookup_reads_the_head_and_one_page():
    reader = Reader()
    table = reader.table()
    assert reader.spans == [Span(0, ENCODED.head_length)]
    for _ in range(3):
        table.at(MANY[3000].device_offset)
    assert len(reader.spans) == 2


def test_threads_that_want_one_page_read_it_once():
    reader = Reader()
    table = reader.table()
    start = threading.Barrier(8)

    def look():
        start.wait()
        assert table.at(MANY[10].device_offset) == MANY[10]

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reader.spans) == 2


def test_only_the_pages_used_last_are_kept():
    encoded, size = samples.table(2048 * (CACHED_PAGES + 1))
    reader = Reader(encoded.content)
    table = ChunkTable(reader, len(encoded.content))
    assert sum(1 for _ in table) == 2048 * (CACHED_PAGES + 1)
    reads = len(reader.spans)
    assert table.at(size - 2 * PAGE) is not None
    assert len(reader.spans) == reads
    assert table.at(0) is not None
    assert len(reader.spans) == reads + 1


def test_a_flipped_byte_of_the_head_is_found_before_use():
    for position in range(0, ENCODED.head_length, 7):
        content = bytearray(ENCODED.content)
        content[position] ^= 1
        with pytest.raises(DigestMismatch, match="head of chunk table"):
            Reader(bytes(content)).table()


def test_a_flipped_byte_of_a_page_is_found_before_use():
    content = bytearray(ENCODED.content)
    content[-100] ^= 1
    table = Reader(bytes(content)).table()
    assert table.at(MANY[0].device_offset) == MANY[0]
    with pytest.raises(DigestMismatch, match="page 2 of chunk table"):
        table.at(MANY[-1].device_offset)


def test_a_page_that_failed_is_read_again_the_next_time():
    reader = Reader()
    table = reader.table()
    good, reader.content = reader.content, bytes(len(ENCODED.content))
    with pytest.raises(DigestMismatch):
        table.at(0)
    reader.content = good
    assert table.at(MANY[0].device_offset) == MANY[0]


def _device(**changes):
    packs = tuple(Descriptor(PACK, digest, 5) for digest in samples.PACKS)
    device = DeviceDescriptor.of(
        ENCODED.content, size_bytes=MANY_SIZE, head_length=ENCODED.head_length, packs=packs
    )
    return DeviceDescriptor(
        **{name: changes.get(name, getattr(device, name)) for name in device.__slots__}
    )


def test_a_table_is_opened_from_a_store_by_its_device():
    blobs = MemoryBlobs()
    blobs.put(Digest.of(ENCODED.content), ENCODED.content)
    table = ChunkTable.open(blobs, _device())
    assert table.at(MANY[7].device_offset) == MANY[7]
    assert ENCODED.device_id == _device().device_id


@pytest.mark.parametrize("changes", [{"size_bytes": MANY_SIZE + PAGE}, {"packs": ()}])
def test_a_table_that_contradicts_its_manifest_is_refused(changes):
    blobs = MemoryBlobs()
    blobs.put(Digest.of(ENCODED.content), ENCODED.content)
    with pytest.raises(ChunkTableInvalid, match="manifest"):
        ChunkTable.open(blobs, _device(**changes))


def _changed(index, **changes):
    chunk = MANY[index]
    return type(chunk)(**{n: changes.get(n, getattr(chunk, n)) for n in chunk.__slots__})


@pytest.mark.parametrize(
    "change",
    [
        {"device_offset": 1},
        {"length": 100},
        {"length": 0},
        {"length": 32 << 20},
        {"stored_length": 0},
        {"pack": 3},
        {"pack_offset": 1 << 63},
        {"raw": True, "stored_length": 1},
        {"device_offset": MANY[0].device_offset},
        {"digest": b""},
    ],
)
def test_chunks_that_no_table_may_hold_are_refused_when_written(change):
    chunks = [MANY[0], _changed(1, **change), *MANY[2:4]]
    with pytest.raises(ValueError, match="chunk"):
        ChunkTable.encode(chunks, samples.PACKS, MANY_SIZE)


def test_chunks_beyond_the_device_are_refused_when_written():
    with pytest.raises(ValueError, match="beyond"):
        ChunkTable.encode(MANY, samples.PACKS, MANY_SIZE - PAGE)
