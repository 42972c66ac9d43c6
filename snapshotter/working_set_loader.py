"""The recorded pages of a restore, read into memory before anybody can take them.

While CRIU is still at work on the process, what is local of the working set is read into one arena,
so that installing it is nothing but system calls. Runs that are not local yet (a start bundle is
arriving) are tried again; the order is kept among those that are. Where every memory file is local
the order has nothing to tell, and the runs are read as few long ones. Beyond the arena's size the
rest is dropped: those pages are then served at their first fault. One thread owns a loader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from hotstart.core.span import PAGE
from hotstart.kernel.userfaultfd import PageBuffer
from snapshotter.memory_file import MemoryFile
from snapshotter.session_spec import PageRun

ARENA_BYTES = 256 << 20
_LOOK_AHEAD = 128
_GAP_PAGES = 4
"""A few pages too many cost less than one more run: 800 in place of 1,373 for 2 % more pages."""


class LoadedRun(NamedTuple):
    """Bytes [offset, offset + length) of a memory file, at ``source`` in our memory."""

    file: int
    offset: int
    length: int
    source: int


def beginning(order: Sequence[PageRun]) -> list[PageRun]:
    """Return the first runs of the order, as many as the arena takes."""
    sizes = accumulate(run.pages * PAGE for run in order)
    return [run for run, size in zip(order, sizes, strict=True) if size <= ARENA_BYTES]


def joined(order: Sequence[PageRun]) -> list[PageRun]:
    """Return the runs sorted, those with at most a short gap between them joined."""
    found: list[PageRun] = []
    for run in sorted(order):
        last = found[-1] if found else None
        end = last.first + last.pages if last else 0
        if last and last.file == run.file and run.first <= end + _GAP_PAGES:
            pages = max(end, run.first + run.pages) - last.first
            found[-1] = PageRun(last.file, last.first, pages)
        else:
            found.append(run)
    return found


class WorkingSetLoader:
    """Reads ``order`` out of ``files``; ``loaded`` is what can be installed now."""

    def __init__(self, order: Sequence[PageRun], files: Sequence[MemoryFile]) -> None:
        self._files = files
        self._unread: deque[tuple[PageRun, int]] = deque()
        self.loaded: deque[LoadedRun] = deque()
        kept = beginning(order)
        if all(file.local(0, file.spec.size_bytes) for file in files):
            kept = joined(kept)
        size = 0
        for run in kept:
            self._unread.append((run, size))
            size += run.pages * PAGE
        self._arena = PageBuffer(size) if size else None

    @property
    def unread(self) -> bool:
        """True while runs are left that were not local so far."""
        return bool(self._unread)

    @property
    def done(self) -> bool:
        """True when everything is read and taken."""
        return not self._unread and not self.loaded

    def load(self, limit_runs: int) -> int:
        """Read up to ``limit_runs`` runs that are local now; return how many. Raises MemoryLost."""
        absent: list[tuple[PageRun, int]] = []
        count = 0
        while self._unread and count < limit_runs and len(absent) < _LOOK_AHEAD:
            run, at = self._unread.popleft()
            if self._read(run, at):
                count += 1
            else:
                absent.append((run, at))
        self._unread.extendleft(reversed(absent))
        return count

    def release(self) -> None:
        """Give the arena back."""
        self._unread.clear()
        self.loaded.clear()
        self._arena = None

    def _read(self, run: PageRun, at: int) -> bool:
        if self._arena is None:
            return False
        file, offset, length = self._files[run.file], run.first * PAGE, run.pages * PAGE
        if not file.local(offset, length):
            return False
        file.read_local(offset, self._arena.view[at : at + length])
        self.loaded.append(LoadedRun(run.file, offset, length, self._arena.address + at))
        return True
