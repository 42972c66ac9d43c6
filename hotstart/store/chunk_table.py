"""Chunk table: which range of a device is stored where, and the digest of its bytes.

    head    48 bytes, then pack digests (32 each), then the directory of pages (56 each)
    pages   zstd frames of up to 2048 entries (64 bytes each), sorted by device offset

A table is read in parts: the head once, a page when an address in it is first asked for. The head
is verified against the digest in the manifest, each page against its BLAKE3 in the head, so no
byte is used unverified. A hole of the device has no entry and reads as zeros.

Readers may be shared by threads. They keep the pages used last (about 128 KiB each) and nothing
else; two threads that want one absent page read it once.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content
from hotstart.store.chunk_table_layout import (
    ENTRY,
    HEAD,
    MAX_HEAD_BYTES,
    Chunk,
    ChunkTableInvalid,
    EncodedTable,
    Head,
    PageEntry,
    encode_table,
    parse_head,
    parse_head_length,
    unpack_entry,
    unpack_page,
)
from hotstart.store.layers import DeviceDescriptor

__all__ = ["Chunk", "ChunkTable", "ChunkTableInvalid", "EncodedTable"]

CACHED_PAGES = 64
_LOCK_STRIPES = 16


class ChunkTable:
    """Reads a chunk table through ``read``, which returns exactly the bytes of a span."""

    def __init__(
        self,
        read: Callable[[Span], Content],
        size: int,
        *,
        head_length: int | None = None,
        head_digest: Digest | None = None,
    ) -> None:
        """Read and verify the head of a table of ``size`` bytes.

        Without ``head_digest`` the head is taken as it is: only for bytes already verified.
        Raises ChunkTableInvalid, FormatVersionUnknown, DigestMismatch, or what ``read`` raises.
        """
        self._read = read
        self._head = _read_head(read, size, head_length, head_digest)
        self._starts = [page.first_offset for page in self._head.pages]
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._load_locks = [threading.Lock() for _ in range(_LOCK_STRIPES)]

    @classmethod
    def encode(
        cls, chunks: Sequence[Chunk], packs: Sequence[Digest], device_size: int
    ) -> EncodedTable:
        """Return the bytes of a table; ``chunks`` must be sorted and must not overlap.

        Raises ValueError for chunks that no table may hold.
        """
        return encode_table(chunks, packs, device_size)

    @classmethod
    def of_bytes(cls, content: Content) -> ChunkTable:
        """Read a table that is in memory and already verified by its digest."""
        view = memoryview(content)
        return cls(lambda span: view[span.offset : span.end], len(view))

    @classmethod
    def open(cls, blobs: BlobStore, device: DeviceDescriptor) -> ChunkTable:
        """Read the table of ``device`` out of a store, part by part, each part verified."""
        digest = device.table.digest
        table = cls(
            lambda span: blobs.read(digest, span),
            device.table.size,
            head_length=device.head_length,
            head_digest=device.head_digest,
        )
        if table.device_size != device.size_bytes:
            raise ChunkTableInvalid(
                f"device has {table.device_size} bytes, the manifest says {device.size_bytes}"
            )
        if table.packs != tuple(pack.digest for pack in device.packs):
            raise ChunkTableInvalid("names other packs than the manifest lists")
        return table

    @property
    def packs(self) -> tuple[Digest, ...]:
        """The packs, by the numbers that chunks use."""
        return self._head.packs

    @property
    def device_size(self) -> int:
        """Bytes of the device."""
        return self._head.device_size

    def __len__(self) -> int:
        """Return the number of chunks."""
        return self._head.chunk_count

    def __iter__(self) -> Iterator[Chunk]:
        """Yield every chunk by device offset; pages are read one after another."""
        for number in range(len(self._starts)):
            yield from unpack_page(self._page(number))

    def at(self, device_offset: int) -> Chunk | None:
        """Return the chunk that covers ``device_offset``, or None for a hole."""
        found = self.between(Span(device_offset, 1))
        return found[0] if found else None

    def between(self, span: Span) -> list[Chunk]:
        """Return the chunks that touch ``span``, by device offset."""
        if span.length == 0 or not self._starts:
            return []
        number = max(0, bisect_right(self._starts, span.offset) - 1)
        found: list[Chunk] = []
        while number < len(self._starts) and self._starts[number] < span.end:
            found.extend(_touching(self._page(number), span))
            number += 1
        return found

    def _page(self, number: int) -> bytes:
        """Return the verified entries of a page, reading it if it isn't kept."""
        page = self._kept(number)
        if page is not None:
            return page
        with self._load_locks[number % _LOCK_STRIPES]:
            page = self._kept(number)
            if page is None:
                page = self._load(number)
                self._keep(number, page)
            return page

    def _kept(self, number: int) -> bytes | None:
        with self._lock:
            page = self._pages.get(number)
            if page is not None:
                self._pages.move_to_end(number)
            return page

    def _keep(self, number: int, page: bytes) -> None:
        with self._lock:
            self._pages[number] = page
            while len(self._pages) > CACHED_PAGES:
                self._pages.popitem(last=False)

    def _load(self, number: int) -> bytes:
        entry = self._head.pages[number]
        stored = self._read(Span(entry.blob_offset, entry.stored_length))
        return _verified_page(self._head, number, entry, stored)


def _read_head(
    read: Callable[[Span], Content],
    size: int,
    head_length: int | None,
    head_digest: Digest | None,
) -> Head:
    if head_digest is None or head_length is None:
        content = read(Span(0, min(size, HEAD.size)))
        head_length = parse_head_length(content, size)
    if head_length > min(size, MAX_HEAD_BYTES):
        raise ChunkTableInvalid(f"head of {head_length} bytes in a table of {size}")
    content = read(Span(0, head_length))
    if head_digest is not None:
        head_digest.check(content, "head of chunk table")
    return parse_head(content, size)


def _verified_page(head: Head, number: int, entry: PageEntry, stored: Content) -> bytes:
    actual = entry.digest_of(stored)
    if actual != entry.digest:
        source = f"page {number} of chunk table"
        raise DigestMismatch(source, entry.digest.hex(), actual.hex())
    return head.decode_page(number, stored)


def _touching(page: bytes, span: Span) -> Iterator[Chunk]:
    """Yield the chunks of one page that touch ``span``."""
    count = len(page) // ENTRY.size
    index = bisect_right(
        range(count), span.offset, key=lambda i: int(ENTRY.unpack_from(page, i * ENTRY.size)[0])
    )
    for position in range(max(0, index - 1), count):
        chunk = unpack_entry(page, position)
        if chunk.device_offset >= span.end:
            return
        if chunk.device_offset + chunk.length > span.offset:
            yield chunk
