"""Bytes of the chunk table: structures, encoding, and every check that a reader makes.

Pure: bytes to values and back. docs/formats/chunk-table.md has the same layout as tables. All
numbers are little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from blake3 import blake3

from hotstart.core.digest import ChunkDigest, Digest
from hotstart.core.span import PAGE
from hotstart.store import zstd_frame
from hotstart.store.blob_store import Content
from hotstart.store.format_errors import FormatInvalid, check_version

MAGIC = b"HSCHUNKT"
VERSION = 1
ENTRIES_PER_PAGE = 2048
MAX_CHUNK_BYTES = 16 << 20
"""No chunk is longer, so a reader never needs more memory for one."""
MAX_HEAD_BYTES = 64 << 20
MAX_DEVICE_BYTES = 1 << 50

HEAD = struct.Struct("<8sHHIQQIII4x")
"""Magic, version, reserved, entries per page, device size, chunks, packs, pages, head length."""
PAGE_ENTRY = struct.Struct("<QQII32s")
"""First device offset, blob offset, stored length, entries, BLAKE3 of the stored bytes."""
ENTRY = struct.Struct("<QQIIII32s")
"""Device offset, pack offset, length, stored length, pack, flags, BLAKE3 of the chunk."""
FLAG_RAW = 1
_PACK_BYTES = 32


class ChunkTableInvalid(FormatInvalid):
    """Bytes are not a chunk table."""

    format_name = "chunk table"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One range of a device and where its bytes are stored; offsets and lengths in bytes.

    ``pack`` is a number in the table's packs; ``raw`` means stored as it is, not compressed.
    """

    device_offset: int
    length: int
    pack: int
    pack_offset: int
    stored_length: int
    raw: bool
    digest: ChunkDigest


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """A whole table; its first ``head_length`` bytes are the head."""

    content: bytes
    head_length: int

    @property
    def head_digest(self) -> Digest:
        """Digest of the head alone, for the manifest."""
        return Digest.of(memoryview(self.content)[: self.head_length])

    @property
    def device_id(self) -> str:
        """The identity of the device that the table describes."""
        return Digest.of(self.content).hex


@dataclass(frozen=True, slots=True)
class PageEntry:
    """Where one page of entries is, and the digest of its stored bytes."""

    first_offset: int
    blob_offset: int
    stored_length: int
    entries: int
    digest: bytes

    @staticmethod
    def digest_of(stored: Content) -> bytes:
        """Return what ``digest`` must be for ``stored``."""
        return blake3(stored).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """The parsed head of a table."""

    length: int
    device_size: int
    chunk_count: int
    packs: tuple[Digest, ...]
    pages: tuple[PageEntry, ...]

    def decode_page(self, number: int, stored: Content) -> bytes:
        """Return the entries of a page, checked. Raises ChunkTableInvalid."""
        entry = self.pages[number]
        try:
            page = zstd_frame.decompress(stored, entry.entries * ENTRY.size)
        except zstd_frame.FrameInvalid as err:
            raise ChunkTableInvalid(f"page {number}: {err}") from err
        is_last = number + 1 == len(self.pages)
        end = self.device_size if is_last else self.pages[number + 1].first_offset
        _check_entries(page, entry.first_offset, end, len(self.packs))
        return page


def unpack_entry(page: bytes, position: int) -> Chunk:
    """Return the chunk at ``position`` of a checked page."""
    offset, pack_offset, length, stored, pack, flags, digest = ENTRY.unpack_from(
        page, position * ENTRY.size
    )
    raw = flags == FLAG_RAW
    return Chunk(offset, length, pack, pack_offset, stored, raw, ChunkDigest(digest))


def unpack_page(page: bytes) -> Iterator[Chunk]:
    """Yield every chunk of a checked page."""
    return (unpack_entry(page, position) for position in range(len(page) // ENTRY.size))


def encode_table(
    chunks: Iterable[Chunk], packs: Sequence[Digest], device_size: int
) -> EncodedTable:
    """Return the bytes of a table. Raises ValueError for chunks that no table may hold."""
    source = iter(chunks)
    pages: list[tuple[int, int, bytes]] = []
    while batch := list(islice(source, ENTRIES_PER_PAGE)):
        stored = zstd_frame.compress(b"".join(_pack_entry(chunk) for chunk in batch))
        pages.append((batch[0].device_offset, len(batch), stored))
    head_length = HEAD.size + _PACK_BYTES * len(packs) + PAGE_ENTRY.size * len(pages)
    directory, offset = [], head_length
    for first, entries, stored in pages:
        digest = blake3(stored).digest()
        directory.append(PAGE_ENTRY.pack(first, offset, len(stored), entries, digest))
        offset += len(stored)
    count = sum(entries for _, entries, _ in pages)
    counts = (count, len(packs), len(pages), head_length)
    fixed = HEAD.pack(MAGIC, VERSION, 0, ENTRIES_PER_PAGE, device_size, *counts)
    names = [bytes.fromhex(pack.hex) for pack in packs]
    bodies = [stored for _, _, stored in pages]
    content = b"".join([fixed, *names, *directory, *bodies])
    _check_encoded(content, head_length, bodies)
    return EncodedTable(content, head_length)


def _check_encoded(content: bytes, head_length: int, bodies: list[bytes]) -> None:
    """Hold the writer to what the reader accepts."""
    try:
        head = parse_head(content[:head_length], len(content))
        for number, stored in enumerate(bodies):
            head.decode_page(number, stored)
    except ChunkTableInvalid as err:
        raise ValueError(err.reason) from err


def _pack_entry(chunk: Chunk) -> bytes:
    if len(chunk.digest) != 32:
        raise ValueError(
            f"chunk at {chunk.device_offset} has a digest of {len(chunk.digest)} bytes"
        )
    try:
        return ENTRY.pack(
            chunk.device_offset,
            chunk.pack_offset,
            chunk.length,
            chunk.stored_length,
            chunk.pack,
            FLAG_RAW if chunk.raw else 0,
            chunk.digest,
        )
    except struct.error as err:
        raise ValueError(f"chunk does not fit its table entry: {chunk}") from err


def parse_head_length(content: Content, size: int) -> int:
    """Return the length of the head from its first bytes. Raises as parse_head does."""
    return _parse_fixed(memoryview(content), size).length


def parse_head(content: Content, size: int) -> Head:
    """Read the whole head of a table of ``size`` bytes.

    Raises ChunkTableInvalid or FormatVersionUnknown.
    """
    view = memoryview(content)
    fixed = _parse_fixed(view, size)
    if len(view) != fixed.length:
        raise ChunkTableInvalid(f"head has {len(view)} bytes, says {fixed.length}")
    directory = HEAD.size + _PACK_BYTES * fixed.packs
    names = tuple(
        Digest(bytes(view[at : at + _PACK_BYTES]).hex())
        for at in range(HEAD.size, directory, _PACK_BYTES)
    )
    pages = tuple(PageEntry(*fields) for fields in PAGE_ENTRY.iter_unpack(view[directory:]))
    head = Head(fixed.length, fixed.device_size, fixed.chunks, names, pages)
    _check_directory(head, size)
    return head


class _Fixed(NamedTuple):
    length: int
    device_size: int
    chunks: int
    packs: int


def _parse_fixed(view: memoryview, size: int) -> _Fixed:
    """Read and check the first 48 bytes."""
    if len(view) < HEAD.size:
        raise ChunkTableInvalid(f"{len(view)} bytes, a head has at least {HEAD.size}")
    fields = HEAD.unpack_from(view)
    magic, version, reserved, per_page, device_size, chunks, packs, pages, length = fields
    if magic != MAGIC:
        raise ChunkTableInvalid("does not begin with the magic of a chunk table")
    check_version("chunk table", version, (VERSION,))
    if reserved or any(view[HEAD.size - 4 : HEAD.size]) or per_page != ENTRIES_PER_PAGE:
        raise ChunkTableInvalid("reserved fields are not as this version writes them")
    expected = HEAD.size + _PACK_BYTES * packs + PAGE_ENTRY.size * pages
    if length != expected or length > min(size, MAX_HEAD_BYTES):
        raise ChunkTableInvalid(f"head of {length} bytes, expected {expected} within {size}")
    if device_size % PAGE or device_size > MAX_DEVICE_BYTES:
        raise ChunkTableInvalid(f"device of {device_size} bytes")
    return _Fixed(length, device_size, chunks, packs)


def _check_directory(head: Head, size: int) -> None:
    """Pages follow each other without gaps, are full but for the last, and ascend."""
    offset, first, count = head.length, -1, 0
    for number, entry in enumerate(head.pages):
        is_last = number + 1 == len(head.pages)
        full = entry.entries == ENTRIES_PER_PAGE
        if entry.blob_offset != offset or not (full or (is_last and entry.entries > 0)):
            raise ChunkTableInvalid(f"page {number} is not where its predecessor ends, or not full")
        if entry.entries > ENTRIES_PER_PAGE or entry.first_offset <= first:
            raise ChunkTableInvalid(f"page {number} is too long or out of order")
        offset, first, count = (
            offset + entry.stored_length,
            entry.first_offset,
            count + entry.entries,
        )
    if offset != size or count != head.chunk_count:
        raise ChunkTableInvalid(
            f"pages end at {offset} with {count} chunks, expected {size} with {head.chunk_count}"
        )


def _check_entries(page: bytes, first: int, end: int, packs: int) -> None:
    """Chunks ascend, do not overlap, are whole pages, and name packs that exist."""
    previous_end = first
    for position, fields in enumerate(ENTRY.iter_unpack(page)):
        offset, pack_offset, length, stored, pack, flags, _ = fields
        if position == 0 and offset != first:
            raise ChunkTableInvalid(f"page begins at {offset}, its directory says {first}")
        if offset < previous_end or offset % PAGE or length % PAGE:
            raise ChunkTableInvalid(f"chunk at {offset} overlaps or is not on whole pages")
        if not 0 < length <= MAX_CHUNK_BYTES or not 0 < stored <= MAX_CHUNK_BYTES:
            raise ChunkTableInvalid(f"chunk at {offset} has {length} bytes, stored {stored}")
        if pack >= packs or pack_offset > MAX_DEVICE_BYTES or flags & ~FLAG_RAW:
            raise ChunkTableInvalid(f"chunk at {offset} names pack {pack} of {packs}")
        if flags & FLAG_RAW and stored != length:
            raise ChunkTableInvalid(f"raw chunk at {offset} is stored in {stored} bytes")
        previous_end = offset + length
    if previous_end > end:
        raise ChunkTableInvalid(f"chunks reach {previous_end}, beyond {end}")
