"""Holes of a device: pages that no chunk covers and that read as zeros."""

from __future__ import annotations

from collections.abc import Sequence

from hotstart.core.span import PAGE, Span, align_up
from hotstart.store.chunk_table import Chunk
from lazyfs.device import Device


def note_holes(device: Device, span: Span, chunks: Sequence[Chunk]) -> None:
    """Mark pages of ``span`` that no chunk covers as ready: a device's holes read as zeros."""
    position = span.offset
    for chunk in chunks:
        _mark_hole(device, position, min(chunk.device_offset, span.end))
        position = max(position, align_up(chunk.device_offset + chunk.length))
    _mark_hole(device, position, span.end)


def _mark_hole(device: Device, start: int, end: int) -> None:
    if end > start:
        device.mark_ready(start // PAGE, (end - start) // PAGE)
