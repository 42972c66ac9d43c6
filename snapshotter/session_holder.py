"""The keeper's side of one page session: what is held, under which names.

    page/SESSION             the listener            (until CRIU has connected)
    page/SESSION/connection  CRIU's connection       (until it has ended)
    page/SESSION/PID         userfaultfd and journal of one process; a forked child's name has its
                             parent's, a dot, and where the parent's journal has the event

Every set's meta has the path of the session's spec, so that a successor finds everything. The
names are remembered here, so that asking for one costs no message. Used by one thread.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from hotstart.kernel.keeper_client import HandleSet, KeeperGone

KIND = "page"
SPEC_FILE = "page-session.json"


class Keeper(Protocol):
    """What is used of ``KeeperClient``."""

    def put(self, held: HandleSet) -> None:
        """Give copies of the descriptors."""

    def drop(self, name: str) -> None:
        """Have the copies closed."""


class SessionHolder:
    """Puts and drops the sets of one session."""

    def __init__(
        self, keeper: Keeper, session: str, work_dir: Path, names: Iterable[str] = ()
    ) -> None:
        self._keeper = keeper
        self._base = f"{KIND}/{session}"
        self._spec = str(work_dir / SPEC_FILE)
        self._names = set(names)

    @property
    def listener_name(self) -> str:
        """Name of the set with the listener."""
        return self._base

    @property
    def connection_name(self) -> str:
        """Name of the set with CRIU's connection."""
        return f"{self._base}/connection"

    def space_name(self, pid: int) -> str:
        """Name of the set of the process that CRIU calls ``pid``."""
        return f"{self._base}/{pid}"

    @property
    def names(self) -> frozenset[str]:
        """Every set that is held; from any thread."""
        return frozenset(self._names.copy())

    def held(self, name: str) -> bool:
        """Tell whether the keeper holds the set."""
        return name in self._names

    def put_listener(self, listener: socket.socket) -> None:
        """Hold the listener."""
        self._put(self.listener_name, {}, [listener.fileno()])

    def put_connection(self, connection: socket.socket) -> None:
        """Hold the connection; the listener is no longer needed."""
        self._put(self.connection_name, {}, [connection.fileno()])
        self.drop(self.listener_name)

    def put_space(self, name: str, file: int, uffd: int, journal: int) -> None:
        """Hold a process's descriptor and journal, in place of an older journal if there is one."""
        self._put(name, {"file": file}, [uffd, journal])

    def drop(self, name: str) -> None:
        """Let go of one set. A keeper that is gone has let go of it already.

        If the agent has a copy, the next keeper gets it back, and a successor drops it.
        """
        if name in self._names:
            with suppress(KeeperGone):
                self._keeper.drop(name)
            self._names.discard(name)

    def drop_all(self) -> None:
        """Let go of everything."""
        for name in sorted(self._names):
            self.drop(name)

    def _put(self, name: str, meta: dict[str, object], fds: list[int]) -> None:
        meta = {"spec": self._spec, **meta}
        self._keeper.put(HandleSet(name, KIND, meta, fds))
        self._names.add(name)
