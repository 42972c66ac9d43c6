"""All sessions of a page worker: opened, taken over from a predecessor, closed.

The keeper's sets and each session's ``page-session.json`` are the whole state; nothing else has to
survive. Sessions that have ended stay known for their counters until they are closed. Methods may
be called from any thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hotstart.core.errors import Conflict, HotstartError, NotFound
from hotstart.core.log import get_logger
from hotstart.core.span import pages_of
from hotstart.kernel.keeper_client import HandleSet, KeeperClient, KeeperGone, KeeperRefused
from hotstart.store.ready_map import ReadyMap
from snapshotter.condemn import Victims, failure_of, record_failure
from snapshotter.last_holder import hand_over
from snapshotter.memory_file import MemoryFile
from snapshotter.page_session import PageSession
from snapshotter.session_holder import KIND, SPEC_FILE, SessionHolder
from snapshotter.session_spec import MemoryFileSpec, SessionSpec

log = get_logger(__name__)

_READERS = 16
_CLOSE_S = 30.0
"""How long a session may take to end: condemned processes may outlive SIGKILL."""


class SessionUnknown(NotFound):
    """No session of that name."""


class SessionInUse(Conflict):
    """A process still needs the session: without it, missing memory would read as zeros."""


class PageSessions:
    """Owns the sessions' threads and the pool that reads what is not local."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._lock = threading.Lock()
        self._sessions: dict[str, PageSession] = {}
        self.stopping = False
        """Whether a successor is to answer from now on."""
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="page-read")

    def names(self) -> list[str]:
        """Return the names of all sessions known."""
        with self._lock:
            return sorted(self._sessions)

    def open(self, spec: SessionSpec) -> None:
        """Begin a session: when this returns, CRIU may connect.

        Idempotent: a worker may end before it can answer, and its successor is asked again. Raises
        Conflict for another session of that name.
        """
        with self._lock:
            known = self._sessions.get(spec.session)
        if known is not None and known.is_alive():
            if known.spec != spec:
                raise Conflict(f"page session {spec.session} exists already")
            return
        work_dir = Path(spec.work_dir)
        _write_spec(work_dir, spec)
        holder = SessionHolder(self._keeper, spec.session, work_dir)
        session = self._make(spec, holder)
        session.listen()
        self._start(session)

    def take_over(self) -> None:
        """Go on with every session that the keeper holds something of."""
        by_spec: dict[str, list[HandleSet]] = defaultdict(list)
        for name in self._keeper.names(KIND):
            try:
                held = self._keeper.get(name)
            except KeeperRefused:
                continue
            by_spec[str(held.meta.get("spec", ""))].append(held)
        for path, sets in by_spec.items():
            try:
                self._resume(Path(path), sets)
            except (HotstartError, OSError) as err:
                self._abandon(Path(path), sets, str(err))

    def _abandon(self, spec_path: Path, sets: list[HandleSet], reason: str) -> None:
        """End what cannot be taken over, beside what can."""
        log.warning("page_session_lost", spec=str(spec_path), reason=reason)
        names = [held.name for held in sets]
        for held in sets:
            held.close()
        try:
            spec = SessionSpec.from_json(spec_path.read_bytes())
        except FileNotFoundError:
            self._drop(names)  # the container's directory is gone, and went after its processes
        except (HotstartError, OSError):
            return
        else:
            record_failure(spec_path.parent, reason)
            victims = Victims(spec.cgroup_procs, spec.process_file)
            threading.Thread(target=self._bury, args=(victims, names), daemon=True).start()

    def _bury(self, victims: Victims, names: list[str]) -> None:
        """Kill, and only then let go of the keeper's copies: until everybody is dead, blocked
        threads are better than wrong bytes."""
        if victims.kill_all(lambda: self.stopping):
            self._drop(names)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            with suppress(KeeperGone):
                self._keeper.drop(name)

    def stats(self, name: str) -> dict[str, Any]:
        """Return state, failure, counters. Raises SessionUnknown."""
        session = self._get(name)
        return {
            "state": session.state,
            "failure": session.failure,
            "missing_bytes": session.missing_bytes,
            **session.counters.report(),
        }

    def recording(self, name: str) -> list[tuple[float, int, int]]:
        """Return the first touches so far, in order. Raises SessionUnknown."""
        return list(self._get(name).first_touches)

    def fill(self, name: str) -> None:
        """Make everything resident in the background. Raises SessionUnknown."""
        self._get(name).ask("fill")

    def close(self, name: str, *, force: bool = False) -> None:
        """Forget a session. Raises SessionInUse while processes need it, unless ``force``.

        Whatever is asked, a condemned session stays until its processes are gone.
        """
        session = self._get(name)
        if session.is_alive() and session.state in ("restoring", "running") and not force:
            if session.missing_bytes:
                raise SessionInUse(f"page session {name}: {session.missing_bytes} bytes missing")
            session.ask("fill")
        session.ask("close")
        session.join(_CLOSE_S)
        if session.is_alive():
            raise SessionInUse(f"page session {name}: its processes outlive SIGKILL, see the log")
        with self._lock:
            self._sessions.pop(name, None)

    def stop(self) -> None:
        """End every thread for a successor; the keeper's copies stay."""
        for session in self._ask_to_stop():
            session.join()
        self._pool.shutdown()

    def outlive(self, keeper_socket: Path) -> None:
        """Stop serving, and hold everything until the next keeper does, or nobody needs it."""
        hand_over(self._ask_to_stop(), keeper_socket)

    def _ask_to_stop(self) -> list[PageSession]:
        self.stopping = True
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.ask("stop")
        return sessions

    def _get(self, name: str) -> PageSession:
        with self._lock:
            session = self._sessions.get(name)
        if session is None:
            raise SessionUnknown(f"page session {name} does not exist", "it may have been closed")
        return session

    def _make(self, spec: SessionSpec, holder: SessionHolder) -> PageSession:
        files: list[MemoryFile] = []
        with ExitStack() as undo:
            for file in spec.memory_files:
                files.append(self._open_file(file))
                undo.callback(files[-1].close)
            session = PageSession(spec, files, holder, self._pool, _ended)
            undo.pop_all()
        return session

    def _start(self, session: PageSession) -> None:
        with self._lock:
            self._sessions[session.spec.session] = session
        session.start()

    def _open_file(self, spec: MemoryFileSpec) -> MemoryFile:
        if not spec.ready_path:
            return MemoryFile(spec, None)
        device = Path(spec.device_path)
        pages = pages_of(spec.device_bytes)
        ready = ReadyMap.open(Path(spec.ready_path), spec.device_id, pages, device=device)
        return MemoryFile(spec, ready, self._device_of(spec))

    def _device_of(self, spec: MemoryFileSpec) -> int:
        """Return the device opened before it was marked; -1: by path, an event each read."""
        if not spec.keeper_set:
            return -1
        try:
            held = self._keeper.get(spec.keeper_set)
        except KeeperRefused:
            return -1
        device = os.dup(held.fds[spec.keeper_index])
        held.close()
        return device

    def _resume(self, spec_path: Path, sets: list[HandleSet]) -> None:
        spec = SessionSpec.from_json(spec_path.read_bytes())
        names = [held.name for held in sets]
        holder = SessionHolder(self._keeper, spec.session, spec_path.parent, names)
        session = self._make(spec, holder)
        connection: socket.socket | None = None
        listener: socket.socket | None = None
        for held in sorted(sets, key=lambda held: held.name):
            if held.name == holder.connection_name:
                connection = socket.socket(fileno=held.fds[0])
            elif held.name == holder.listener_name:
                listener = socket.socket(fileno=held.fds[0])
        if connection is None and listener is not None:
            session.listen(listener)
        else:
            if listener is not None:
                listener.close()
            session.resume(connection)
        for held in sets:
            if held.name in (holder.connection_name, holder.listener_name):
                continue
            try:
                session.resume_space(held.name, int(held.meta["file"]), *held.fds)
            except (HotstartError, OSError) as err:
                session.failure = session.failure or str(err)
        log.info("page_session_resumed", session=spec.session, state=session.state, sets=len(sets))
        self._start(session)


def _ended(session: PageSession) -> None:
    counters = session.counters
    log.info(
        "page_session",
        session=session.spec.session,
        state=session.state,
        failure=session.failure or failure_of(Path(session.spec.work_dir)) or "",
        faults=counters.faults,
        copied_pages=counters.copied_pages,
        slow_reads=counters.slow_reads,
        elapsed_ms=counters.now_ms(),
    )


def _write_spec(work_dir: Path, spec: SessionSpec) -> None:
    staged = work_dir / f".{SPEC_FILE}.new"
    staged.write_text(spec.to_json())
    staged.replace(work_dir / SPEC_FILE)
