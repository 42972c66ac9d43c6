"""Which addresses of one process still wait for which bytes of its memory file.

A piece says: the bytes of [start, end) lie in the memory file from ``offset`` on. Pieces are
sorted, page aligned and never overlap. What is installed, unmapped or thrown away is cut out; what
``mremap`` moves is cut out and added at its new place. Pure values, no locking: one thread owns
them. A look-up is a bisection, a cut touches only the pieces it meets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """Addresses [start, end) wait for the memory file's bytes from ``offset`` on."""

    start: int
    end: int
    offset: int


class PageRanges:
    """The pieces of one address space."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces = sorted(pieces)
        self._starts = [piece.start for piece in self._pieces]

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def size_bytes(self) -> int:
        """How much memory is still waiting."""
        return sum(piece.end - piece.start for piece in self._pieces)

    def find(self, address: int) -> Piece | None:
        """Return the rest of the piece from ``address`` on, or None if nothing waits there."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        piece = self._pieces[at]
        if address >= piece.end:
            return None
        return Piece(address, piece.end, piece.offset + address - piece.start)

    def next_from(self, address: int) -> Piece | None:
        """Return what waits at or after ``address``, starting over at the lowest; None if empty."""
        here = self.find(address)
        if here is not None or not self._pieces:
            return here
        return self._pieces[bisect_right(self._starts, address) % len(self._pieces)]

    def within(self, start: int, end: int) -> list[Piece]:
        """Return the parts of pieces that lie in [start, end)."""
        found: list[Piece] = []
        at = max(0, bisect_right(self._starts, start) - 1)
        while at < len(self._pieces) and self._pieces[at].start < end:
            _divide(self._pieces[at], start, end, [], found)
            at += 1
        return found

    def cut(self, start: int, end: int) -> list[Piece]:
        """Take [start, end) out; return the pieces that were taken."""
        low = max(0, bisect_right(self._starts, start) - 1)
        high = low
        kept: list[Piece] = []
        taken: list[Piece] = []
        while high < len(self._pieces) and self._pieces[high].start < end:
            _divide(self._pieces[high], start, end, kept, taken)
            high += 1
        if high > low:
            self._replace(low, high, kept)
        return taken

    def move(self, source: int, target: int, length: int) -> None:
        """Follow ``mremap``: what waited at ``source`` now waits at ``target``."""
        taken = self.cut(source, source + length)
        self.cut(target, target + length)
        by = target - source
        for piece in taken:
            at = bisect_right(self._starts, piece.start + by)
            self._replace(at, at, [Piece(piece.start + by, piece.end + by, piece.offset)])

    def _replace(self, low: int, high: int, pieces: list[Piece]) -> None:
        self._pieces[low:high] = pieces
        self._starts[low:high] = [piece.start for piece in pieces]


def _divide(piece: Piece, start: int, end: int, kept: list[Piece], taken: list[Piece]) -> None:
    """Sort the parts of ``piece`` outside and inside of [start, end) into the two lists."""
    low, high = max(piece.start, start), min(piece.end, end)
    if low >= high:
        kept.append(piece)
        return
    if piece.start < low:
        kept.append(Piece(piece.start, low, piece.offset))
    taken.append(Piece(low, high, piece.offset + low - piece.start))
    if high < piece.end:
        kept.append(Piece(high, piece.end, piece.offset + high - piece.start))


class OffsetIndex:
    """Where the bytes of a memory file belonged when the dump was made."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = sorted(pieces, key=lambda piece: piece.offset)
        self._offsets = [piece.offset for piece in self._pieces]

    def places(self, offset: int, length: int) -> list[Piece]:
        """Return the addresses of ``length`` bytes from ``offset`` on, in order."""
        end = offset + length
        found: list[Piece] = []
        at = max(0, bisect_right(self._offsets, offset) - 1)
        while at < len(self._pieces) and self._pieces[at].offset < end:
            piece = self._pieces[at]
            low = max(offset, piece.offset)
            high = min(end, piece.offset + piece.end - piece.start)
            if low < high:
                start = piece.start + low - piece.offset
                found.append(Piece(start, start + high - low, low))
            at += 1
        return found
