"""Pages that nobody waits for yet: the working set first, and the rest when asked.

Each call does a small step, so that faults are answered between steps. Before CRIU has finished,
ENOENT means "not registered yet" and the step is tried again; afterwards it means that the mapping
is gone. Used by the thread of one session.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection

from hotstart.core.span import PAGE
from hotstart.kernel.userfaultfd import PageBuffer
from snapshotter.address_space import BUFFER_BYTES, AddressSpace
from snapshotter.page_counters import PageCounters
from snapshotter.page_ranges import Piece
from snapshotter.working_set_loader import LoadedRun, WorkingSetLoader

_RUNS_A_STEP = 16
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

    @property
    def waiting(self) -> bool:
        """True while parts of the working set are not installed."""
        return not self._loader.done

    def give_up_waiting(self) -> None:
        """Forget what has not become local: it is served at its first fault."""
        self._loader.release()

    def load(self) -> bool:
        """Read some of the working set; True if there was something to read."""
        return self._loader.unread and self._loader.load(_RUNS_A_STEP) > 0

    def install(self, finished: bool) -> bool:
        """Install some of what is loaded; True if it makes sense to go on at once."""
        loaded = self._loader.loaded
        for _ in range(min(_RUNS_A_STEP, len(loaded))):
            run = loaded[0]
            space = self._space_of(run)
            if space is None and not finished:
                loaded.rotate(-1)  # its process has not arrived yet, another one may have
                continue
            if space is not None and not self._install_run(space, run, finished):
                return False
            loaded.popleft()
            self._counters.mark("first_installed")
        if self._loader.done and self._spaces:
            self._counters.mark("working_set")
            self._loader.release()
        return bool(loaded) and bool(self._spaces)

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
            _skip_unmapped(space, piece)
        return number != errno.EAGAIN

    def _space_of(self, run: LoadedRun) -> AddressSpace | None:
        for space in self._spaces:
            if space.memory_index == run.file:
                return space
        return None

    def _install_run(self, space: AddressSpace, run: LoadedRun, finished: bool) -> bool:
        """Install what is still waited for; False when it has to be tried again later."""
        for piece in space.waiting_for(run.offset, run.length):
            number = space.install(piece, run.source + piece.offset - run.offset)
            if number == errno.EAGAIN:
                return self._install_run(space, run, finished)
            if number == errno.ENOENT:
                if not finished:
                    return False
                _skip_unmapped(space, piece)
            else:
                self._counters.working_set_pages += (piece.end - piece.start) // PAGE
        return True


def _skip_unmapped(space: AddressSpace, piece: Piece) -> None:
    """Stop waiting for the page that the kernel does not know."""
    rest = space.ranges.within(piece.start, piece.end)
    if rest:
        space.give_up(rest[0].start, rest[0].start + PAGE)
