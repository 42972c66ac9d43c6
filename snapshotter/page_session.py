"""One restore's memory: from CRIU's connection until every page is resident or every process gone.

A session is one thread. It loads the working set while CRIU is at work, takes each process's
userfaultfd over (the keeper first), installs the working set as soon as CRIU has registered the
memory, answers faults before anything else, and, when asked, fills the rest and lets go. Pages that
are not local are read by a pool, so that one thread's miss delays no other's.

What cannot be served for good condemns the session: everything in its groups is killed, with the
reason in ``page-failure.json`` of the work directory, and only then the descriptors are closed,
since the last close makes missing memory read as zeros. A successor takes over what the keeper
holds: listener, connection and spaces.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.core.span import PAGE
from hotstart.kernel.userfaultfd import FaultDescriptor, PageBuffer
from snapshotter import criu_connection
from snapshotter.address_space import BUFFER_BYTES, AddressSpace, SpaceGone
from snapshotter.background_installer import BackgroundInstaller
from snapshotter.condemn import CRIU_ENDED, Victims, failure_of, record_failure
from snapshotter.dump_directory import DumpDirectory
from snapshotter.memory_file import MemoryFile
from snapshotter.page_counters import PageCounters
from snapshotter.page_fetcher import Fetched, PageFetcher, Pool
from snapshotter.page_journal import PageJournal
from snapshotter.page_ranges import PageRanges
from snapshotter.session_holder import SessionHolder
from snapshotter.session_spec import SessionSpec
from snapshotter.wake_up import WakeUp
from snapshotter.working_set_loader import WorkingSetLoader

log = get_logger(__name__)

_IDLE_MS, _SOON_MS = 1000.0, 1.0
_WAIT_MS = 20_000.0
"""For how long after the restore the rest of the working set is looked for, each millisecond."""
_LINGER_S = 2.5
"""More than the agent takes to notice that the keeper has dropped a set."""


class RestoreBroken(HotstartError):
    """CRIU ended before the tree was complete."""


class PageSession(threading.Thread):
    """Serves one restore; see the module. Owns ``files``. ``on_end`` is its thread's last call."""

    def __init__(
        self,
        spec: SessionSpec,
        files: Sequence[MemoryFile],
        holder: SessionHolder,
        pool: Pool,
        on_end: Callable[[PageSession], None],
    ) -> None:
        super().__init__(name=f"page-session-{spec.session}", daemon=True)
        self.spec = spec
        self.counters = PageCounters()
        self.state = "waiting"
        self.failure = failure_of(Path(spec.work_dir))
        self.first_touches: list[tuple[float, int, int]] = []
        self._files = files
        self._file_index = {Path(file.path).name: at for at, file in enumerate(spec.memory_files)}
        self._holder = holder
        self._on_end = on_end
        self._dump = DumpDirectory(Path(spec.dump_dir))
        self._buffer = PageBuffer(BUFFER_BYTES)
        self._spaces: dict[int, AddressSpace] = {}
        self._wake = WakeUp()
        self._fetcher = PageFetcher(pool, self._wake, self.counters)
        loader = WorkingSetLoader(spec.order, files)
        self._background = BackgroundInstaller(
            loader, self._spaces.values(), self._buffer, self.counters, self._fetcher.fill
        )
        self._asked: deque[str] = deque()
        self._leaving: dict[str, float] = {}
        self._fill = False
        self._closing = False
        self._finished = False
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(self._wake.fd, select.POLLIN)

    def ask(self, what: str) -> None:
        """Have the session ``fill``, ``close`` or ``stop`` (for a successor); from any thread."""
        self._asked.append(what)
        self._wake.ring()

    @property
    def missing_bytes(self) -> int:
        """Memory that is not resident yet, in all processes known so far."""
        return sum(space.ranges.size_bytes for space in list(self._spaces.values()))

    @property
    def held_names(self) -> frozenset[str]:
        """The keeper's sets without which the session cannot be taken over."""
        return self._holder.names

    def listen(self, listener: socket.socket | None = None) -> None:
        """Wait for CRIU; the keeper gets a new listener before anybody can connect to it."""
        if listener is None:
            listener = criu_connection.listen(Path(self.spec.work_dir))
            self._holder.put_listener(listener)
        listener.setblocking(False)
        self._listener = listener
        self._poll.register(listener, select.POLLIN)

    def resume(self, connection: socket.socket | None) -> None:
        """Take over a predecessor's connection; None: CRIU had finished."""
        if connection is None:
            self._finished = True
            self.state = "running"
            self.counters.mark("finished")
        else:
            self._connect(connection)

    def resume_space(self, name: str, file: int, uffd: int, journal: int) -> None:
        """Take over a process: replay, then wake. Raises what ``take_over`` does."""
        space = self._space(name, file, FaultDescriptor(uffd), PageJournal.adopt(journal))
        self._add(space)
        with suppress(SpaceGone):
            space.take_over()

    def run(self) -> None:
        """Serve until nothing is left; whatever goes wrong condemns the session."""
        try:
            if self.failure is None:
                self._serve()
        except Exception as err:
            self.failure = str(err) if isinstance(err, HotstartError) else repr(err)
        try:
            if self.failure is not None:
                self._condemn(self.failure)
        finally:
            self._release()
            self._on_end(self)

    def _serve(self) -> None:
        while not self._ended():
            try:
                busy = self._work()
                self._answer_queued()
                for descriptor, _ in self._poll.poll(self._timeout_ms(busy)):
                    self._dispatch(descriptor)
            except SpaceGone as err:
                self._forget(err.space)

    def _answer_queued(self) -> None:
        """Answer faults that came along while a page was being installed for nobody.

        They were read together with the event that install() had to wait for, so the descriptor
        has nothing left that poll(2) could tell of.
        """
        for space in list(self._spaces.values()):
            space.serve_waiting()

    def _ended(self) -> bool:
        return self._closing or not (self._listener or self._connection or self._spaces)

    def _timeout_ms(self, busy: bool) -> float:
        if busy:
            return 0
        return _SOON_MS if self._background.waiting else _IDLE_MS

    def _dispatch(self, descriptor: int) -> None:
        space = self._spaces.get(descriptor)
        if space is not None:
            space.drain()
        elif self._connection is not None and descriptor == self._connection.fileno():
            self._read_connection(self._connection)
        elif self._listener is not None and descriptor == self._listener.fileno():
            self._accept(self._listener)
        elif descriptor == self._wake.fd:
            self._wake.clear()
            self._carry_out()
            for fetched in self._fetcher.take():
                self._deliver(fetched)

    def _work(self) -> bool:
        """One step of background work; True if there is more to do at once."""
        loaded = self._background.load()
        installed = self._background.install(self._finished)
        filled = self._fill and self._finished and self._background.fill()
        if self._background.waiting and self._late():
            self._background.give_up_waiting()
        if self._finished and not (loaded or installed or filled):
            for space in list(self._spaces.values()):
                self._let_go(space)
        return loaded or installed or filled

    def _late(self) -> bool:
        """True long after the restore: what the working set lacks by then is not on its way."""
        finished_ms = self.counters.marks_ms.get("finished")
        return finished_ms is not None and self.counters.now_ms() - finished_ms > _WAIT_MS

    def _let_go(self, space: AddressSpace) -> None:
        """Forget a process that is gone, or that misses nothing: the kernel's zeros are right then.

        The agent drops its copy of the descriptor a moment after the keeper has. Until then events
        must be read, else the process would wait in each munmap(2).
        """
        if not space.uffd.alive():
            self._forget(space)
        elif not space.ranges:
            self._holder.drop(space.name)
            until = self._leaving.setdefault(space.name, time.monotonic() + _LINGER_S)
            if time.monotonic() > until:
                self._forget(space)

    def _carry_out(self) -> None:
        while self._asked:
            what = self._asked.popleft()
            self._fill = self._fill or what == "fill"
            self._closing = self._closing or what != "fill"
            if what == "stop":
                self.state = "stopped"

    def _deliver(self, fetched: Fetched) -> None:
        space = fetched.space
        if space.uffd.fd not in self._spaces:
            return
        if isinstance(fetched.content, HotstartError):
            raise fetched.content
        for address in fetched.addresses:
            space.deliver(address, fetched.offset, fetched.content[:PAGE])
        if not fetched.addresses:
            self._background.deliver(space, fetched.offset, fetched.content)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        self._holder.put_connection(connection)
        self._poll.unregister(listener)
        listener.close()
        self._listener = None
        self._connect(connection)

    def _connect(self, connection: socket.socket) -> None:
        self.counters.mark("connected")
        self.state = "restoring"
        self._connection = connection
        self._poll.register(connection, select.POLLIN)

    def _read_connection(self, connection: socket.socket) -> None:
        message = criu_connection.look(connection)
        if isinstance(message, criu_connection.Arrived):
            self._arrived(message)
            criu_connection.take_process(connection)
        elif isinstance(message, criu_connection.RestoreFinished):
            self.counters.mark("finished")
            self._finished = True
            self.state = "running"
            self._disconnect(connection)
        elif isinstance(message, criu_connection.ConnectionLost):
            # The tree may be half made: nothing of it may go on with memory that nobody serves.
            raise RestoreBroken(CRIU_ENDED)

    def _disconnect(self, connection: socket.socket) -> None:
        self._poll.unregister(connection)
        self._connection = None
        self._holder.drop(self._holder.connection_name)
        connection.close()

    def _arrived(self, message: criu_connection.Arrived) -> None:
        name = self._holder.space_name(message.pid)
        uffd = FaultDescriptor(message.uffd)
        if self._holder.held(name):  # a predecessor got as far as this
            uffd.close()
            return
        process = self._dump.process(message.pid)
        journal = PageJournal.create(PageRanges(process.pieces()))
        space = self._space(name, self._file_index[process.file_name], uffd, journal)
        self.hold(space)
        self._add(space)

    def _space(
        self, name: str, file: int, uffd: FaultDescriptor, journal: PageJournal
    ) -> AddressSpace:
        memory = self._files[file]
        space = AddressSpace(name, uffd, journal, memory, file, self, self.counters, self._buffer)
        if self.spec.record:
            space.on_first_touch = self._note
        return space

    def _add(self, space: AddressSpace) -> None:
        self._spaces[space.uffd.fd] = space
        self._poll.register(space.uffd.fd, select.POLLIN)

    def _forget(self, space: AddressSpace) -> None:
        self._poll.unregister(space.uffd.fd)
        del self._spaces[space.uffd.fd]
        space.close()
        self._holder.drop(space.name)

    def hold(self, space: AddressSpace) -> None:
        """Give descriptor and journal to the keeper."""
        self._holder.put_space(space.name, space.memory_index, space.uffd.fd, space.journal.fd)

    def held(self, name: str) -> bool:
        """Tell whether the keeper holds a set of that name."""
        return self._holder.held(name)

    def forked(self, parent: AddressSpace, name: str, descriptor: int) -> None:
        """Serve a child from the pieces that its parent waits for now; the keeper first."""
        uffd, journal = FaultDescriptor(descriptor), PageJournal.create(parent.ranges)
        child = self._space(name, parent.memory_index, uffd, journal)
        self.hold(child)
        self._add(child)

    def fetch(self, space: AddressSpace, address: int, offset: int) -> None:
        """Read one page through the mount, in the pool."""
        self._fetcher.fetch(space, address, offset)

    def _note(self, space: AddressSpace, offset: int) -> None:
        now = round(self.counters.now_ms(), 3)
        self.first_touches.append((now, space.memory_index, offset // PAGE))

    def _condemn(self, reason: str) -> None:
        self.state = "failed"
        log.error("page_session_condemned", session=self.spec.session, reason=reason)
        record_failure(Path(self.spec.work_dir), reason)
        victims = Victims(self.spec.cgroup_procs, self.spec.process_file)
        if not victims.kill_all(lambda: "stop" in self._asked):
            self.state = "stopped"  # the successor finds the reason, and goes on killing

    def _release(self) -> None:
        """Close everything; for a successor the keeper's copies stay.

        Then the descriptors stay open too, to the end of this process: if the keeper is gone, they
        may be the last.
        """
        if self.state != "stopped":
            if self.state != "failed":
                self.state = "ended"
            self._holder.drop_all()
        self._fetcher.wait()
        if self.state != "stopped":
            for space in self._spaces.values():
                space.close()
            self._spaces.clear()
        for channel in (self._listener, self._connection):
            if channel is not None:
                channel.close()
        for file in self._files:
            file.close()
        self._wake.close()
