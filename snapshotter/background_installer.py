"""Pages that nobody waits for yet: the working set first, and the rest when asked.

Each call does a small step, so that faults are answered between steps. Before CRIU has finished,
ENOENT means "not registered yet" and the step is tried again; afterwards it means that the mapping
is gone. Used by the thread of one session.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection

from hotstart.kernel.userfaultfd import PageBuffer
from snapshotter.address_space import BUFFER_BYTES, AddressSpace
from snapshotter.install_batch import InstallBatch, Progress, skip_unmapped
from snapshotter.page_counters import PageCounters
from snapshotter.page_ranges import Piece
from snapshotter.working_set_loader import LoadedRun, WorkingSetLoader

_RUNS_A_STEP = 16
_RUNS_A_BATCH = 64
"""Installed in well below a millisecond; faults that come meanwhile wait for it."""
_FILL_BYTES = 256 << 10


class BackgroundInstaller:
    """Installs into ``spaces``, a live view of the session's."""

    def __init__(
        self,
        loader: WorkingSetLoader,
        spaces: Collection[AddressSpace],
        buffer: PageBuffer,
        counters: PageCounters,
        fetch: Callable[[AddressSpace, Piece], bool],
    ) -> None:
        self._loader = loader
        self._spaces = spaces
        self._buffer = buffer
        self._counters = counters
        self._fetch = fetch
        self._turn = 0
        self._batches: deque[InstallBatch] = deque()

    @property
    def waiting(self) -> bool:
        """True while parts of the working set are not installed."""
        return bool(self._batches) or not self._loader.done

    def give_up_waiting(self) -> None:
        """Forget what has not become local: it is served at its first fault."""
        self._batches.clear()
        self._loader.release()

    def load(self) -> bool:
        """Read some of the working set; True if there was something to read."""
        return self._loader.unread and self._loader.load(_RUNS_A_STEP) > 0

    def install(self, finished: bool) -> bool:
        """Install some of what is loaded; True if it makes sense to go on at once."""
        prepared = self._prepare(finished)
        if self._batches:
            progress = self._install_batch(self._batches[0], finished)
            if progress is Progress.TOO_EARLY:
                return prepared
            batch = self._batches.popleft()
            if progress is Progress.OUTDATED:
                # Looked up anew, and next again: its turn must not wait for all the others'.
                fresh = InstallBatch(batch.space, batch.runs, self._counters)
                self._batches.appendleft(fresh)
            self._counters.mark("first_installed")
        if not self.waiting and self._spaces:
            self._counters.mark("working_set")
            self._loader.release()
        return prepared or bool(self._batches)

    def _install_batch(self, batch: InstallBatch, finished: bool) -> Progress:
        if batch.space not in self._spaces:
            return Progress.DONE  # its process is gone
        return batch.install(finished)

    def _prepare(self, finished: bool) -> bool:
        """Make a batch of the next loaded runs that have a process; False if none has."""
        loaded = self._loader.loaded
        space = self._next_space(finished)
        if space is None:
            return False
        runs: list[LoadedRun] = []
        while loaded and len(runs) < _RUNS_A_BATCH and self._space_of(loaded[0]) is space:
            runs.append(loaded.popleft())
        self._batches.append(InstallBatch(space, runs, self._counters))
        return True

    def _next_space(self, finished: bool) -> AddressSpace | None:
        """Bring a run to the front that has a process; drop those that will have none."""
        loaded = self._loader.loaded
        if not self._spaces and not finished:
            return None
        for _ in range(len(loaded)):
            space = self._space_of(loaded[0])
            if space is not None:
                return space
            if finished:
                loaded.popleft()
            else:
                loaded.rotate(-1)
        return None

    def fill(self) -> bool:
        """Install the next stretch of any process that is local; True if there was one.

        What is not local is fetched through the session; its bytes come in by ``deliver``.
        """
        spaces = [space for space in self._spaces if space.ranges]
        if not spaces:
            return False
        self._turn += 1
        space = spaces[self._turn % len(spaces)]
        piece = space.ranges.next_from(space.cursor)
        if piece is None:
            return False
        length = min(piece.end - piece.start, _FILL_BYTES, BUFFER_BYTES)
        piece = Piece(piece.start, piece.start + length, piece.offset)
        space.cursor = piece.end
        if not space.memory.local(piece.offset, length):
            return self._fetch(space, piece)
        space.memory.read_local(piece.offset, self._buffer.view[:length])
        self._put(space, piece)
        return True

    def deliver(self, space: AddressSpace, offset: int, content: bytes) -> None:
        """Install bytes that were fetched, where they are still waited for."""
        self._buffer.view[: len(content)] = content
        for piece in space.waiting_for(offset, len(content)):
            if not self._put(space, piece, piece.offset - offset):
                return  # mappings have changed: the other places may be others' by now

    def _put(self, space: AddressSpace, piece: Piece, shift: int = 0) -> bool:
        """Install from the buffer; False: EAGAIN leaves the rest for a later turn."""
        number = space.install(piece, self._buffer.address + shift)
        if number == errno.ENOENT:
            skip_unmapped(space, piece)
        return number != errno.EAGAIN

    def _space_of(self, run: LoadedRun) -> AddressSpace | None:
        for space in self._spaces:
            if space.memory_index == run.file:
                return space
        return None
