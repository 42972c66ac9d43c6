"""Where a file's data lies in the device, and how its inode says so.

A file with data has one extent: its pages one after another, padded with zeros to a whole page,
holes left out. EROFS maps a file in chunks of a power of two; a dense file takes one chunk that
covers it all, a sparse one the largest chunk on whose boundaries its holes lie. (These are the
file system's chunks; what is fetched and verified are the chunks of the chunk table.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hotstart.core.span import PAGE, Span, align_up, merge
from image_builder.erofs_format import MAX_CHUNK_BITS
from image_builder.errors import NotRepresentable
from image_builder.tree import Content, Node

MAX_INDEXES = 1 << 17
"""Chunk indexes of one file (1 MiB of bootstrap); beyond it small holes are stored as zeros."""
_MAX_GROWTH = 1 << 30


@dataclass(slots=True, eq=False)
class FilePlacement:
    """One regular file outside the bootstrap. ``runs`` are spans of the file on whole chunks.

    ``device_offset`` is set when the extent gets its place; until then it is -1. A file that is
    all hole has no runs and needs no place.
    """

    path: bytes
    node: Node
    content: Content
    chunk_bits: int
    runs: tuple[Span, ...]
    device_offset: int = -1

    extent_size: int = 0
    """Bytes in the device, whole pages; computed from the runs."""

    def __post_init__(self) -> None:
        self.extent_size = sum([run.length for run in self.runs])

    @property
    def chunk_count(self) -> int:
        """Chunks, hence indexes, of the file."""
        chunk = PAGE << self.chunk_bits
        return (self.content.size + chunk - 1) // chunk

    def indexes(self) -> list[int | None]:
        """Return for each chunk of the file its first byte in the device, None for a hole."""
        if self.chunk_count == 1:
            return [self.device_offset if self.runs else None]
        chunk = PAGE << self.chunk_bits
        found: list[int | None] = [None] * self.chunk_count
        position = self.device_offset
        for run in self.runs:
            for offset in range(run.offset, run.end, chunk):
                found[offset // chunk] = position + offset - run.offset
            position += run.length
        return found

    def read_extent(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the extent's bytes from ``start`` on; behind the file are zeros."""
        if len(self.runs) == 1:
            self._read(self.runs[0].offset + start, buffer)
            return
        at = 0
        wanted = Span(start, len(buffer))
        for run in self.runs:
            common = wanted.overlap(Span(at, run.length))
            if common is not None:
                first = common.offset - start
                self._read(run.offset + common.offset - at, buffer[first : first + common.length])
            at += run.length

    def _read(self, offset: int, buffer: memoryview) -> None:
        length = min(len(buffer), max(0, self.content.size - offset))
        if length:
            self.content.read_into(offset, buffer[:length])
        if length < len(buffer):
            buffer[length:] = bytes(len(buffer) - length)


def place(path: bytes, node: Node, content: Content, *, dense: bool) -> FilePlacement:
    """Return the placement of a file that is not empty; ``dense`` stores its holes as zeros.

    Raises NotRepresentable, or what listing its holes raises.
    """
    size = content.size
    end = align_up(size)
    spans = [Span(0, size)] if dense else content.data_spans()
    if len(spans) == 1 and spans[0].length == size:
        return FilePlacement(path, node, content, _bits_for(path, size), (Span(0, end),))
    runs = _whole(spans, PAGE, end)
    if runs == [Span(0, end)] or not runs:
        return FilePlacement(path, node, content, _bits_for(path, size), tuple(runs))
    chunk = _largest_chunk(runs, end)
    while (size + chunk - 1) // chunk > MAX_INDEXES:
        chunk *= 2
    data = sum(run.length for run in runs)
    runs = _whole(spans, chunk, end)
    if sum(run.length for run in runs) > data + max(4 * data, _MAX_GROWTH):
        raise NotRepresentable(path, f"a sparse file of {size} bytes with too many small parts")
    return FilePlacement(path, node, content, (chunk // PAGE).bit_length() - 1, tuple(runs))


def _whole(spans: Sequence[Span], unit: int, end: int) -> list[Span]:
    """Return the spans grown to whole units, none beyond ``end``."""
    grown = []
    for span in spans:
        start = span.offset // unit * unit
        grown.append(Span(start, min(align_up(span.end, unit), end) - start))
    return merge(grown)


def _largest_chunk(runs: Sequence[Span], end: int) -> int:
    """Return the largest power of two that every boundary but the file's end is a multiple of."""
    edges = 0
    for run in runs:
        edges |= run.offset | (run.end if run.end != end else 0)
    return edges & -edges


def _bits_for(path: bytes, size: int) -> int:
    """Return the bits of a chunk that covers the whole file."""
    bits = ((size - 1) // PAGE).bit_length()
    if bits > MAX_CHUNK_BITS:
        raise NotRepresentable(path, f"a file of {size} bytes")
    return bits
