"""Recorded pages that lie ready for one process, so that installing them is a loop of calls.

Where the pages belong is looked up, and each call's arguments are made, while CRIU is still at work
on the process. A batch is right until the process changes its mappings. One thread owns it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum, auto

from hotstart.core.span import PAGE
from hotstart.kernel.userfaultfd import PreparedCopies
from snapshotter.address_space import AddressSpace
from snapshotter.page_counters import PageCounters
from snapshotter.page_ranges import Piece
from snapshotter.working_set_loader import LoadedRun


class Progress(Enum):
    """What became of a step."""

    DONE = auto()
    TOO_EARLY = auto()
    """The kernel does not know the addresses yet."""
    OUTDATED = auto()
    """Mappings have changed: what is left belongs elsewhere, or nowhere."""


class InstallBatch:
    """The places in ``space`` that wait for ``runs``."""

    def __init__(
        self, space: AddressSpace, runs: Sequence[LoadedRun], counters: PageCounters
    ) -> None:
        self.space = space
        self.runs = runs
        self._counters = counters
        self._pieces: list[Piece] = []
        self._sources: list[int] = []
        for run in runs:
            for piece in space.waiting_for(run.offset, run.length):
                self._pieces.append(piece)
                self._sources.append(run.source + piece.offset - run.offset)
        self._copies = PreparedCopies(
            [
                (piece.start, source, piece.end - piece.start)
                for piece, source in zip(self._pieces, self._sources, strict=True)
            ]
        )
        self._changes = space.changes
        self._at = 0

    def install(self, finished: bool) -> Progress:
        """Install what is left; before CRIU has ``finished``, ENOENT means TOO_EARLY."""
        while self._at < len(self._pieces):
            if self.space.changes != self._changes:
                return Progress.OUTDATED
            rest = self._pieces[self._at :]
            count, number = self.space.install_many(self._copies, rest)
            self._took(count)
            if number:
                number = self._install_next()
            if number == errno.EAGAIN:
                return Progress.OUTDATED
            if number == errno.ENOENT and not finished:
                return Progress.TOO_EARLY
            if number == errno.ENOENT:
                skip_unmapped(self.space, self._pieces[self._at])
                self._at += 1
        return Progress.DONE

    def _install_next(self) -> int:
        """Install the next piece with care: parts of it may be there, or cross a mapping's end."""
        number = self.space.install(self._pieces[self._at], self._sources[self._at])
        if not number:
            self._took(1)
        return number

    def _took(self, count: int) -> None:
        taken = self._pieces[self._at : self._at + count]
        self._counters.working_set_pages += sum(one.end - one.start for one in taken) // PAGE
        self._at += count


def skip_unmapped(space: AddressSpace, piece: Piece) -> None:
    """Stop waiting for the page that the kernel does not know."""
    rest = space.ranges.within(piece.start, piece.end)
    if rest:
        space.give_up(rest[0].start, rest[0].start + PAGE)
