"""The order of data in a device, cut into segments that can be read and chunked independently.

A small file shares a segment with its neighbours; a large one has segments of its own. Where a
group of small files ends is decided by the names in it, not by their number, so a file that comes
or goes changes the chunks of its own group and no others. Chunks never cross a segment: a large
file has the same chunks wherever it lies, and equal large files are recognised by them.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hotstart.core.batching import in_batches
from hotstart.core.digest import ChunkDigest
from hotstart.store.blob_store import Writable
from hotstart.store.chunker import AVERAGE, SMALL_AVERAGE, cut_points
from hotstart.store.packs import chunk_digest, compress
from image_builder.placement import FilePlacement

LARGE_FILE = 64 << 10
"""Extents of at least this many bytes are chunked on their own."""
GROUP_LIMIT = 4 << 20
PIECE = 8 << 20
"""Longest segment of a large file; with its compressed chunks the memory of one step."""
BATCH = 2 << 20
"""Segments that are read by one task together hold at most this much, or are one."""
_GROUP_FILES = 64
"""A group ends after one file in so many, on average."""


@dataclass(frozen=True, slots=True)
class Part:
    """``length`` bytes of a file's extent from ``start``."""

    placement: FilePlacement
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Parts that lie one after another in the device. ``is_last``: its file or group ends here."""

    parts: tuple[Part, ...]
    average: int
    is_group: bool
    is_last: bool

    @property
    def length(self) -> int:
        """Bytes in the device."""
        return sum(part.length for part in self.parts)


@dataclass(frozen=True, slots=True)
class CutChunk:
    """One chunk of a segment, and the bytes to store for it: None if it is known already."""

    length: int
    digest: ChunkDigest
    stored: tuple[Writable, bool] | None


@dataclass(frozen=True, slots=True)
class CutBatch:
    """Segments that were read together, each with its chunks; raw ones lie in ``buffer``."""

    buffer: memoryview
    segments: Sequence[tuple[Segment, Sequence[CutChunk]]]


def plan_segments(
    placements: Iterable[FilePlacement], small_chunks: frozenset[int]
) -> Iterator[Segment]:
    """Yield the segments of all extents in device order; ``small_chunks`` holds ``id(node)``."""
    group: list[Part] = []
    size = 0
    for placement in placements:
        extent = placement.extent_size
        is_small = id(placement.node) in small_chunks
        if extent >= LARGE_FILE or is_small:
            if group:
                yield Segment(tuple(group), AVERAGE, is_group=True, is_last=True)
                group, size = [], 0
            yield from _pieces(placement, extent, SMALL_AVERAGE if is_small else AVERAGE)
            continue
        group.append(Part(placement, 0, extent))
        size += extent
        if size >= GROUP_LIMIT or zlib.crc32(placement.path) % _GROUP_FILES == 0:
            yield Segment(tuple(group), AVERAGE, is_group=True, is_last=True)
            group, size = [], 0
    if group:
        yield Segment(tuple(group), AVERAGE, is_group=True, is_last=True)


def _pieces(placement: FilePlacement, extent: int, average: int) -> Iterator[Segment]:
    for start in range(0, extent, PIECE):
        length = min(PIECE, extent - start)
        part = Part(placement, start, length)
        yield Segment((part,), average, is_group=False, is_last=start + length == extent)


class BufferPool:
    """Buffers used again: fresh memory costs the kernel as much as reading the file into it.

    A buffer is taken by a reader and given back by whoever knows that nobody reads it any more.
    ``made`` tells how many there are.
    """

    def __init__(self) -> None:
        self._free: list[bytearray] = []
        self._lock = threading.Lock()
        self.made = 0

    def take(self, length: int) -> memoryview:
        """Return ``length`` bytes of any content, to be filled whole."""
        with self._lock:
            buffer = self._free.pop() if self._free else None
            self.made += buffer is None
        if buffer is None:
            buffer = bytearray(max(PIECE, GROUP_LIMIT + LARGE_FILE))
        return memoryview(buffer)[:length]

    def give_back(self, view: memoryview) -> None:
        """Take a buffer that ``take`` returned, for the next reader."""
        if isinstance(view.obj, bytearray):
            with self._lock:
                self._free.append(view.obj)


def batches_of(segments: Iterable[Segment]) -> Iterator[Sequence[Segment]]:
    """Return the segments in groups of at most ``BATCH`` bytes; a longer one is its own group."""
    return in_batches(segments, BATCH, lambda segment: segment.length)


def read_batch(
    segments: Sequence[Segment], pool: BufferPool, is_known: Callable[[ChunkDigest], bool]
) -> CutBatch:
    """Read, cut and hash segments, and compress the chunks that are not known yet.

    May run in any thread, which is kept busy while the data is in its core's cache. Raises what
    reading raises.
    """
    buffer = pool.take(sum(segment.length for segment in segments))
    at = 0
    cut = []
    for segment in segments:
        part = buffer[at : at + segment.length]
        cut.append((segment, _read_segment(segment, part, is_known)))
        at += segment.length
    return CutBatch(buffer, cut)


def _read_segment(
    segment: Segment, buffer: memoryview, is_known: Callable[[ChunkDigest], bool]
) -> list[CutChunk]:
    at = 0
    for part in segment.parts:
        part.placement.read_extent(part.start, buffer[at : at + part.length])
        at += part.length
    chunks = []
    start = 0
    for end in cut_points(buffer, average=segment.average):
        content = buffer[start:end]
        digest = chunk_digest(content)
        stored = None if is_known(digest) else compress(content)
        chunks.append(CutChunk(end - start, digest, stored))
        start = end
    return chunks
