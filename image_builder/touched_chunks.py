"""Chunks that recorded starts of an earlier image touched: what a build lays out first.

The trace names pages of the earlier image's devices; its chunk tables name what lies there. So the
same bytes are known again by their digest, wherever they lie in the new tree, and the new image
has a trace before its first start. A chunk whose bytes have changed is not known again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hotstart.core.digest import ChunkDigest
from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import BlobStore
from hotstart.store.chunk_table import Chunk
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.trace import Trace, TraceSpan, first_touches
from hotstart.store.traces import chunks_touched

MAX_STORED_BYTES = 256 << 20
"""Touched chunks are held in memory until the rest is stored; from the first on that goes beyond
this, in order of first touch, they are laid out like any other. Counted as the earlier image has
them stored."""


@dataclass(frozen=True, slots=True)
class Touch:
    """Pages of a chunk, counted from its start, first asked for ``at_ms`` after a start began."""

    at_ms: int
    first_page: int
    pages: int


class TouchedChunks:
    """What was touched of each chunk, in order of first touch."""

    def __init__(self, touches: Mapping[ChunkDigest, Sequence[Touch]] | None = None) -> None:
        self._touches = dict(touches or {})

    @classmethod
    def of(
        cls,
        blobs: BlobStore,
        devices: Iterable[DeviceDescriptor],
        trace: Trace,
        *,
        limit: int = MAX_STORED_BYTES,
    ) -> TouchedChunks:
        """Look up what ``trace`` touched of ``devices``, up to ``limit`` stored bytes.

        Raises what the store and the chunk tables raise.
        """
        touches: dict[ChunkDigest, list[Touch]] = {}
        stored = 0
        is_full = False
        once = Trace(trace.device_ids, tuple(first_touches(trace.spans)))
        for span, chunk in chunks_touched(blobs, devices, once):
            if chunk.digest not in touches:
                is_full = is_full or stored + chunk.stored_length > limit
                if is_full:
                    continue
                stored += chunk.stored_length
                touches[chunk.digest] = []
            pages = Span(span.first_page * PAGE, span.pages * PAGE)
            touches[chunk.digest].append(_touch(span.at_ms, pages, chunk))
        return cls(touches)

    def __contains__(self, digest: ChunkDigest) -> bool:
        return digest in self._touches

    def __iter__(self) -> Iterator[ChunkDigest]:
        """Yield the digests in order of first touch."""
        return iter(self._touches)

    def trace(self, device_id: str, places: Iterable[tuple[int, ChunkDigest]]) -> Trace | None:
        """Return the trace of a device whose chunks begin at ``places``; None if none was touched.

        ``places`` are byte offsets. Where equal chunks lie in several, the first one counts.
        """
        first: dict[ChunkDigest, int] = {}
        for offset, digest in places:
            if digest in self._touches:
                first.setdefault(digest, offset // PAGE)
        spans = [
            TraceSpan(touch.at_ms, 0, first[digest] + touch.first_page, touch.pages)
            for digest, touches in self._touches.items()
            if digest in first
            for touch in touches
        ]
        spans.sort(key=lambda span: span.at_ms)  # stable: within a millisecond the order stays
        return Trace((device_id,), tuple(first_touches(spans))) if spans else None


def _touch(at_ms: int, pages: Span, chunk: Chunk) -> Touch:
    start = max(pages.offset, chunk.device_offset)
    end = min(pages.end, chunk.device_offset + chunk.length)
    return Touch(at_ms, (start - chunk.device_offset) // PAGE, (end - start + PAGE - 1) // PAGE)
