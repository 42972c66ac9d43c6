"""One restored process: its userfaultfd, its journal, and the memory that it still waits for.

Every fault is answered from the memory file, or with a zero page where nothing waits: addresses
that the dump has no page for, and pages that the process itself threw away. Events are applied in
the order in which they come, before anything else is installed: UFFDIO_COPY answers EAGAIN as long
as one is unread, and only then may an address mean something new. Facts: userfaultfd(2),
Documentation/admin-guide/mm/userfaultfd.rst, mm/userfaultfd.c.

One thread owns a space. The keeper has the descriptor and the journal before anything is served;
the space itself may be lost at any instant.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from hotstart.core.errors import HotstartError
from hotstart.core.span import PAGE
from hotstart.kernel.userfaultfd import (
    EVENT_FORK,
    EVENT_PAGEFAULT,
    EVENT_REMAP,
    EVENT_REMOVE,
    EVENT_UNMAP,
    FaultDescriptor,
    Message,
    PageBuffer,
    PreparedCopies,
    forked_descriptor,
)
from snapshotter.memory_file import MemoryFile
from snapshotter.page_counters import PageCounters
from snapshotter.page_journal import INSTALLED, PageJournal
from snapshotter.page_ranges import OffsetIndex, Piece

BUFFER_BYTES = 1 << 20
_AROUND_BYTES = 4 * PAGE
_BACK_OFF_AFTER = 200


class SpaceGone(HotstartError):
    """The process has exited or executed another program: nothing is left to serve."""

    def __init__(self, space: AddressSpace) -> None:
        super().__init__(f"{space.name}: the process is gone")
        self.space = space


class ForkLost(HotstartError):
    """A forked child's memory had no holder for a moment: it may have seen zeros."""


class InstallFailed(HotstartError):
    """The kernel refuses a page for a reason that is not part of the protocol."""


class SpaceHost(Protocol):
    """What a space needs of its session."""

    def hold(self, space: AddressSpace) -> None:
        """Give descriptor and journal to the keeper; returns when it has them."""

    def held(self, name: str) -> bool:
        """Tell whether the keeper holds a set of that name."""

    def forked(self, parent: AddressSpace, name: str, descriptor: int) -> None:
        """Take over a child's descriptor, with the parent's pieces as they are now."""

    def fetch(self, space: AddressSpace, address: int, offset: int) -> None:
        """Read a page that is not local; calls ``deliver`` or ends the session."""


class AddressSpace:
    """Owns ``uffd`` and ``journal``. ``name`` is that of the set which the keeper holds."""

    def __init__(
        self,
        name: str,
        uffd: FaultDescriptor,
        journal: PageJournal,
        memory: MemoryFile,
        memory_index: int,
        host: SpaceHost,
        counters: PageCounters,
        buffer: PageBuffer,
    ) -> None:
        self.name = name
        self.uffd = uffd
        self.journal = journal
        self.ranges = journal.base()
        self.layout = OffsetIndex(self.ranges)
        self.memory = memory
        self.memory_index = memory_index
        self.waiting: deque[int] = deque()
        self.on_first_touch: Callable[[AddressSpace, int], None] | None = None
        self.cursor = 0
        self.changes = 0
        """Grows with each change of mappings that was read: places found before may be wrong."""
        self._host = host
        self._counters = counters
        self._buffer = buffer
        self._empty_reads = 0

    def close(self) -> None:
        """Let go of descriptor and journal; the keeper's copies stay until they are dropped."""
        self.uffd.close()
        self.journal.close()

    def take_over(self) -> None:
        """Apply what predecessors read and installed, then have lost faults come again.

        Raises ForkLost if a predecessor died with a child's descriptor in hand.
        """
        for position, message in self.journal.replay():
            if message.event == EVENT_FORK:
                name = self._child_name(position)
                if not self._host.held(name):
                    raise ForkLost(f"{self.name}: the page worker died while a process was forked")
            else:
                self._apply(message)
        self.uffd.wake_all()

    def drain(self) -> None:
        """Read what waits and answer every fault in it."""
        self.read_events()
        self.serve_waiting()

    def serve_waiting(self) -> None:
        """Answer every fault that has been read; ``install`` may have read some."""
        while self.waiting:
            self.serve(self.waiting.popleft())

    def read_events(self) -> bool:
        """Read one batch: apply events, queue faults; False if nothing was waiting."""
        if self.journal.full:
            self._renew_journal()
        length = self.uffd.read_into(self.journal.room())
        if not length:
            return False
        faults_only = True
        for position, message in self.journal.batch(length):
            if message.event == EVENT_PAGEFAULT:
                self.waiting.append(message.second & ~(PAGE - 1))
                continue
            faults_only = False
            self._counters.events += 1
            if message.event == EVENT_FORK:
                self._counters.forks += 1
                self._host.forked(self, self._child_name(position), forked_descriptor(message))
                self.journal.fork_held(position)
            else:
                self._apply(message)
        if faults_only:
            self.journal.wipe(length)
        else:
            self.journal.keep(length)
        return True

    def serve(self, address: int) -> None:
        """Answer the fault at ``address``: a page of the memory file, or zeros."""
        self._counters.faults += 1
        while True:
            piece = self.ranges.find(address)
            if piece is None:
                done = self._install_zero(address)
            elif self.memory.local(piece.offset, PAGE):
                length = self._around(piece)
                self.memory.read_local(piece.offset, self._buffer.view[:length])
                if self.on_first_touch is not None:
                    self.on_first_touch(self, piece.offset)
                done = self._answer(address, piece.offset, length)
            else:
                self._host.fetch(self, address, piece.offset)
                return
            if done:
                return

    def deliver(self, address: int, offset: int, content: bytes | bytearray) -> None:
        """Answer the fault at ``address`` with a page that ``fetch`` has read."""
        while True:
            piece = self.ranges.find(address)
            if piece is None or piece.offset != offset:
                self.serve(address)  # moved or thrown away meanwhile
                return
            self._buffer.view[: len(content)] = content
            if self.on_first_touch is not None:
                self.on_first_touch(self, piece.offset)
            if self._answer(address, offset, len(content)):
                return

    def install(self, piece: Piece, source: int) -> int:
        """Install the bytes at our address ``source`` where ``piece`` still waits for them.

        Returns 0, EAGAIN (mappings change: look again) or ENOENT (nothing is registered there).
        """
        position, end = piece.start, piece.end
        limit = end - position
        while position < end:
            length = min(limit, end - position)
            done, number = self.uffd.copy(position, source + position - piece.start, length)
            if done:
                self._resident(position, position + done)
                self._counters.copied_pages += done // PAGE
                position += done
                limit *= 2
            elif number == errno.EEXIST:
                self._resident(position, position + PAGE)
                self._counters.present_pages += 1
                self.uffd.wake(position, PAGE)
                position += PAGE
            elif number == errno.ENOENT and length > PAGE:
                # The copy must not cross the end of a mapping, of which we know nothing.
                limit = max(PAGE, length // 2 // PAGE * PAGE)
            else:
                return self._refused(number)
        return 0

    def install_many(self, copies: PreparedCopies, pieces: Sequence[Piece]) -> tuple[int, int]:
        """Make prepared copies, the last ones of ``copies``, one for each of ``pieces``.

        Returns how many were made whole, and errno: the next one needs ``install``'s care.
        """
        count, number = self.uffd.copy_many(copies, len(copies.addresses) - len(pieces))
        for piece in pieces[:count]:
            self._resident(piece.start, piece.end)
            self._counters.copied_pages += (piece.end - piece.start) // PAGE
        return count, number

    def give_up(self, start: int, end: int) -> None:
        """Nothing is mapped there any more: stop waiting for those pages."""
        self._resident(start, end)

    def waiting_for(self, offset: int, length: int) -> list[Piece]:
        """Return where the file's bytes are still waited for, if they haven't been moved."""
        found: list[Piece] = []
        for place in self.layout.places(offset, length):
            shift = place.offset - place.start
            pieces = self.ranges.within(place.start, place.end)
            found += [piece for piece in pieces if piece.offset - piece.start == shift]
        return found

    def _answer(self, address: int, offset: int, length: int) -> bool:
        """Install what the buffer holds for a waiting thread; False if its page has moved."""
        piece = Piece(address, address + length, offset)
        number = self.install(piece, self._buffer.address)
        if number == errno.ENOENT:
            # The thread waits at an address that is gone: it will see that itself.
            self.uffd.wake(address, PAGE)
        return number != errno.EAGAIN

    def _install_zero(self, address: int) -> bool:
        self._counters.zero_pages += 1
        done, number = self.uffd.zeropage(address, PAGE)
        if done:
            return True
        if number in (errno.EEXIST, errno.ENOENT):
            self.uffd.wake(address, PAGE)
            return True
        self._refused(number)
        return False

    def _refused(self, number: int) -> int:
        if number == errno.EAGAIN:
            self._counters.tried_again += 1
            self._wait_for_change()
        elif number == errno.ESRCH:
            raise SpaceGone(self)
        elif number != errno.ENOENT:
            raise InstallFailed(f"{self.name}: a page is refused: {os.strerror(number)}")
        return number

    def _wait_for_change(self) -> None:
        """The process changes its mappings: read the event, or let it get on with it."""
        if self.read_events():
            self._empty_reads = 0
            return
        self._empty_reads += 1
        # Usually a moment between our read and the process waking up; but it may be frozen there.
        time.sleep(0.001 if self._empty_reads > _BACK_OFF_AFTER else 0)

    def _around(self, piece: Piece) -> int:
        """How much to install at a fault: a few neighbours if they are local, one page exactly
        while first touches are recorded."""
        if self.on_first_touch is not None:
            return PAGE
        length = min(_AROUND_BYTES, piece.end - piece.start)
        return length if self.memory.local(piece.offset, length) else PAGE

    def _apply(self, message: Message) -> None:
        event, first, second, third = message
        self.changes += 1
        if event in (EVENT_REMOVE, EVENT_UNMAP, INSTALLED):
            self.ranges.cut(first, second)
        elif event == EVENT_REMAP:
            self.ranges.move(first, second, third)

    def _resident(self, start: int, end: int) -> None:
        self.ranges.cut(start, end)
        if self.journal.full:
            self._renew_journal()
        else:
            self.journal.installed(start, end)

    def _renew_journal(self) -> None:
        """Put a journal in place whose base is what is missing now; the old one counts no more."""
        old = self.journal
        self.journal = PageJournal.create(self.ranges, generation=old.generation + 1)
        self._host.hold(self)
        old.supersede()
        old.close()

    def _child_name(self, position: int) -> str:
        return f"{self.name}.{self.journal.generation}-{position}"
