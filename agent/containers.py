"""The containers of one root: reserved, running, ended; adopted after a restart.

What a container owns (network, image mounts, page session) is in its record before it counts as
running, so whoever comes later can let go of it. One thread waits for each running container; when
it ends, that thread lets go of everything, writes the record and wakes whoever waits. ``close``
ends the threads and leaves containers as they are.

A container that is stopped while it starts never becomes one: what runs of it is killed for as long
as its start goes on, and its commit is refused.

A name is free when its container has ended: its directory, log and status go when the name is
used again. Locking: the table's lock is held for look-ups only, never while something blocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from agent.container_errors import (
    CloneRefused,
    NameTaken,
    NoSuchContainer,
    StartGoesOn,
    StoppedAtStart,
)
from agent.end_reasons import reason_of
from agent.failed_reads import FailedReads
from agent.records import ContainerRecord
from agent.start import Start
from agent.state import State
from agent.values import ContainerView
from hotstart.core.errors import Conflict, HotstartError
from hotstart.core.log import get_logger
from hotstart.kernel.cgroup import Group
from runtime import containers as life
from runtime.container_directory import ContainerDirectory
from runtime.containers import ContainerStatus
from runtime.image_access import Images, Mounted
from runtime.left_capture import undo_capture
from runtime.logs import LogKeeper
from runtime.network import NetworkPool
from runtime.runc import NotRunning, Programs, Runc

log = get_logger(__name__)

HANDLES_LOST = "agent and keeper were both killed, so nobody served its files any more"

_START_ENDS_S = 30.0
_KILL_STEP_S = 0.05


class PageSessions(Protocol):
    """What is used of the page client."""

    def close(self, session: str, *, force: bool = False) -> None:
        """Forget a session."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What containers use and the node owns."""

    root: Path
    state: State
    programs: Programs
    images: Images
    networks: NetworkPool
    pages: PageSessions
    cgroup_parent: Group
    reads: FailedReads


@dataclass(slots=True)
class _Entry:
    """One container in the table. ``finished`` is set once everything of it is let go.

    ``stopping`` is set, under the table's lock, when a start is not to become a container any more.
    """

    record: ContainerRecord
    directory: ContainerDirectory
    mounted: tuple[Mounted, ...] = ()
    stopping: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    watcher: threading.Thread | None = None


class Containers:
    """Every container of one root."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._closing = threading.Event()
        self._logs = LogKeeper()

    def adopt(self, there: Container[str]) -> None:
        """Take up what an earlier agent left: watch what runs, finish what ended, undo the rest.

        ``there`` are the images (manifests in hex) that were found mounted and served.
        """
        for record in self._tools.state.containers().values():
            entry = _Entry(record, ContainerDirectory.of(self._tools.root, record.name))
            try:
                self._adopt(entry, there)
            except (HotstartError, OSError) as err:
                log.warning("container_not_adopted", container=record.name, reason=err)

    def _adopt(self, entry: _Entry, there: Container[str]) -> None:
        record = entry.record
        if record.stage == "starting":
            log.warning("half_made_container", container=record.name)
            self._discard(entry)
            return
        self._entries[record.name] = entry
        if record.stage == "ended":
            entry.finished.set()
            return
        group = self.group(record.name)
        try:
            life.recognise(entry.directory, group)
            if life.status(entry.directory).state == "running":
                self._take_up_mounts(entry, there)
        finally:  # whatever could not be taken up: somebody must see its end
            self._watch(entry)
            undo_capture(entry.directory, group)  # last: condemned ones must not run on

    def _take_up_mounts(self, entry: _Entry, there: Container[str]) -> None:
        mounts = entry.record.mounts
        lost = [held.spec.manifest for held in mounts if held.spec.manifest not in there]
        if lost:
            self._condemn(entry, lost[0])
            return
        for held in mounts:
            ahead = held.read_ahead_kib
            entry.mounted += (self._tools.images.mount(held.spec, read_ahead_kib=ahead),)

    def _condemn(self, entry: _Entry, manifest: str) -> None:
        """End a container whose files nobody serves any more: what it reads next may be zeros."""
        entry.record = replace(entry.record, reason=HANDLES_LOST)
        log.error("container_condemned", container=entry.record.name, image=manifest[:12])
        self.group(entry.record.name).kill()

    @contextmanager
    def starting(self, record: ContainerRecord, *, alone: bool = False) -> Iterator[Start]:
        """Reserve the name and the directory for the block; without a commit all is undone.

        With ``alone`` no other container of the same ``digest`` may be there. Raises NameTaken,
        CloneRefused; StoppedAtStart in place of whatever a stop has made fail.
        """
        entry = _Entry(record, ContainerDirectory.of(self._tools.root, record.name))
        self._reserve(entry, alone=alone)
        group, commit = partial(self.group, record.name), partial(self.commit, entry)
        start = Start(record.name, entry.directory, entry.stopping, group, commit)
        try:
            entry.directory.remove()
            entry.directory.create()
            yield start
        except (HotstartError, OSError) as err:
            if entry.stopping.is_set():
                raise StoppedAtStart(record.name) from err
            raise
        finally:
            if not start.committed:
                self._give_up(entry)

    def _give_up(self, entry: _Entry) -> None:
        """Undo a start; the name is free once nothing of it is left."""
        try:
            self._discard(entry)
        finally:
            entry.record = entry.record.given_up(stopped=entry.stopping.is_set())
            with self._lock:
                self._entries.pop(entry.record.name, None)
                entry.finished.set()

    def _reserve(self, entry: _Entry, *, alone: bool) -> None:
        record = entry.record
        with self._lock:
            there = self._entries.get(record.name)
            if there is not None and not there.finished.is_set():
                raise NameTaken(record.name)
            if alone:
                self._refuse_clones(record.digest, record.reference)
            self._tools.state.put_container(entry.record)
            self._entries[entry.record.name] = entry

    def refuse_clones(self, digest: str, reference: str) -> None:
        """Raise CloneRefused if a container of this snapshot has not ended."""
        with self._lock:  # one that goes meanwhile is no error
            self._refuse_clones(digest, reference)

    def _refuse_clones(self, digest: str, reference: str) -> None:
        for other in self._entries.values():
            if other.record.digest == digest and not other.finished.is_set():
                raise CloneRefused(reference, other.record.name)

    def commit(self, entry: _Entry, record: ContainerRecord, mounted: tuple[Mounted, ...]) -> None:
        """Write what the container owns and begin to watch it. Raises StoppedAtStart."""
        with self._lock:
            entry.record, entry.mounted = record, mounted
            if entry.stopping.is_set():
                raise StoppedAtStart(record.name)
        self._tools.state.put_container(record)
        self._watch(entry)

    def stop(self, name: str, *, grace_s: float) -> ContainerView:
        """End a container; return when its processes and its ports are gone. Idempotent.

        One that still starts gets no grace, and nothing of it is left. Raises StartGoesOn.
        """
        entry = self._find(name)
        if self._stops_at_start(entry):
            self._await_given_up(entry)
        elif not entry.finished.is_set():
            life.stop(
                entry.directory,
                self.group(name),
                stop_signal=entry.record.stop_signal,
                grace_s=grace_s,
            )
            entry.finished.wait()
        return self._view(entry)

    def _stops_at_start(self, entry: _Entry) -> bool:
        """Have a start that isn't over come to nothing; False if it is."""
        with self._lock:
            if entry.record.stage == "starting":
                entry.stopping.set()
            return entry.stopping.is_set()

    def _await_given_up(self, entry: _Entry) -> None:
        """Block until a start is undone. Its processes are killed as they come."""
        name = entry.record.name
        log.info("start_stopped", container=name)
        deadline = time.monotonic() + _START_ENDS_S
        while not entry.finished.is_set():
            self.group(name).kill()
            if not entry.finished.wait(_KILL_STEP_S) and time.monotonic() > deadline:
                raise StartGoesOn(name, _START_ENDS_S)

    def wait(self, name: str, alive: Callable[[], bool]) -> ContainerView:
        """Block until the container has ended and let go of everything, or nobody waits."""
        entry = self._find(name)
        while alive() and not entry.finished.wait(0.2):
            pass
        return self._view(entry)

    def remove(self, name: str) -> None:
        """Delete an ended container. Raises Conflict while it runs."""
        entry = self._find(name)
        if not entry.finished.is_set():
            raise Conflict(f"{name} is running", f"stop it first: hotstart stop {name}")
        entry.directory.remove()
        self._tools.state.drop_container(name)
        with self._lock:
            self._entries.pop(name, None)

    def views(self) -> list[ContainerView]:
        """Return every container, by name."""
        with self._lock:
            entries = sorted(self._entries.items())
        return [self._view(entry) for _, entry in entries]

    def view(self, name: str) -> ContainerView:
        """Return one container. Raises NoSuchContainer."""
        return self._view(self._find(name))

    def await_finish(self, name: str) -> None:
        """Block until a container that is ending has let go of everything."""
        self._find(name).finished.wait()

    def is_running(self, name: str) -> bool:
        """Tell whether a container has not ended, as far as anybody knows yet."""
        entry = self._find(name)
        return not entry.finished.is_set() and life.status(entry.directory).state != "stopped"

    def require_running(self, name: str) -> None:
        """Raise NoSuchContainer or NotRunning unless the container runs."""
        if not self.is_running(name):
            raise NotRunning(name)

    def running(self) -> list[str]:
        """Return the names of those that have not ended."""
        with self._lock:
            return [name for name, e in self._entries.items() if not e.finished.is_set()]

    def record(self, name: str) -> ContainerRecord:
        """Return a container's record. Raises NoSuchContainer."""
        return self._find(name).record

    def image_names(self) -> dict[str, str]:
        """Return the references by digest of what running containers use."""
        names: dict[str, str] = {}
        with self._lock:  # one that goes meanwhile is no error
            records = [e.record for e in self._entries.values() if not e.finished.is_set()]
        for record in records:
            names |= {record.digest: record.reference, record.image_digest: record.image_reference}
            for held in record.mounts:
                if held.spec.is_weights:
                    names[f"sha256:{held.spec.manifest}"] = held.spec.store_url
        return names

    def directory(self, name: str) -> ContainerDirectory:
        """Return a container's directory. Raises NoSuchContainer."""
        return self._find(name).directory

    def runc(self, name: str) -> Runc:
        """Return the runc of a container. Raises NoSuchContainer."""
        return Runc(self._tools.programs, self.directory(name))

    def close(self) -> None:
        """End the threads; containers go on."""
        self._closing.set()
        for entry in list(self._entries.values()):
            if entry.watcher is not None:
                entry.watcher.join()
        self._logs.close()

    def _find(self, name: str) -> _Entry:
        with self._lock:
            entry = self._entries.get(name)
        if entry is None:
            raise NoSuchContainer(name)
        return entry

    def _view(self, entry: _Entry) -> ContainerView:
        ended = entry.record.stage == "ended"
        return entry.record.view(None if ended else life.status(entry.directory))

    def group(self, name: str) -> Group:
        """Return a container's control group, which need not exist."""
        return self._tools.cgroup_parent.child(name)

    def _watch(self, entry: _Entry) -> None:
        self._logs.watch(entry.directory)
        entry.watcher = threading.Thread(
            target=self._await_end, args=(entry,), name=f"watch-{entry.record.name}", daemon=True
        )
        entry.watcher.start()

    def _await_end(self, entry: _Entry) -> None:
        status = life.wait(entry.directory, lambda: not self._closing.is_set())
        if status.state != "stopped":
            return
        try:
            self._finish(entry, status)
        except Exception as err:  # the record must still say that it has ended
            log.error("container_not_cleaned", container=entry.record.name, reason=err)  # noqa: TRY400  # one line
        finally:
            self._logs.forget(entry.directory)
            entry.finished.set()

    def _finish(self, entry: _Entry, status: ContainerStatus) -> None:
        """Let go of everything an ended container owns, each whatever happens to the others."""
        record = entry.record
        group, reads = self.group(record.name), self._tools.reads
        reason = reason_of(record, entry.directory, status, group=group, reads=reads)
        entry.record = record.ended(status, reason)
        with ExitStack() as undo:
            undo.callback(self._tools.state.put_container, entry.record)
            self._let_go(entry, record, undo)
        log.info("container_ended", container=record.name, status=status.exit_status, reason=reason)

    def _let_go(self, entry: _Entry, record: ContainerRecord, undo: ExitStack) -> None:
        """Put on ``undo`` what gives back each thing; the processes go first."""
        for mounted in entry.mounted:
            undo.callback(mounted.release)
        if record.network is not None:
            undo.callback(self._tools.networks.release, record.network)
        if record.session:
            undo.callback(self._close_session, record.session)
        undo.callback(
            life.tear_down,
            entry.directory,
            Runc(self._tools.programs, entry.directory),
            self.group(record.name),
        )

    def _close_session(self, session: str) -> None:
        with suppress(HotstartError):  # it may have ended by itself, everything being resident
            self._tools.pages.close(session, force=True)

    def _discard(self, entry: _Entry) -> None:
        """Undo a start that came to nothing: processes, mounts, directory, record."""
        with ExitStack() as undo:
            undo.callback(self._tools.state.drop_container, entry.record.name)
            undo.callback(entry.directory.remove)
            if entry.directory.path.exists():
                self._let_go(entry, entry.record, undo)
