"""Byte ranges and runs of pages. Pure values; a page is 4096 bytes everywhere in Hotstart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PAGE = 4096
"""Bytes in a page; also the EROFS block size and the unit of ready maps and traces."""


def pages_of(size_bytes: int) -> int:
    """Return how many pages hold ``size_bytes``."""
    return (size_bytes + PAGE - 1) // PAGE


def align_up(value: int, unit: int = PAGE) -> int:
    """Return ``value`` rounded up to a multiple of ``unit``."""
    return (value + unit - 1) // unit * unit


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """``length`` bytes (or pages, where the name says so) from ``offset`` on."""

    offset: int
    length: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length < 0:
            raise ValueError(f"negative span {self.offset}+{self.length}")

    @property
    def end(self) -> int:
        """First position after the span."""
        return self.offset + self.length

    def overlap(self, other: Span) -> Span | None:
        """Return the common part, or None."""
        start, end = max(self.offset, other.offset), min(self.end, other.end)
        return Span(start, end - start) if start < end else None

    def split(self, size: int) -> Iterator[Span]:
        """Yield pieces of at most ``size``, in order."""
        for start in range(self.offset, self.end, size):
            yield Span(start, min(size, self.end - start))


def merge(spans: Iterable[Span], gap: int = 0) -> list[Span]:
    """Return the union, sorted; neighbours at most ``gap`` apart become one span."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.offset <= merged[-1].end + gap:
            last = merged[-1]
            merged[-1] = Span(last.offset, max(last.end, span.end) - last.offset)
        else:
            merged.append(span)
    return merged
