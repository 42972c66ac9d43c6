"""Typed client of the keeper (keeper.py has the protocol): put, get, list, drop, supervise.

One connection, one request at a time (a lock orders threads). Descriptors that ``get`` returns
belong to the caller; ``put`` copies, the caller keeps its own. A keeper that is gone is
KeeperGone: the caller decides whether to start another (lazyfs/keeper_guard.py does).
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from hotstart.core.errors import Conflict, Unavailable, Unsupported
from hotstart.kernel.keeper import DESCRIPTORS_A_SET, PACKET_BYTES, VERSION


class KeeperGone(Unavailable):
    """Nobody answers on the keeper's socket."""


class KeeperRefused(Conflict):
    """The keeper answered that it can't do what was asked."""


@dataclass(slots=True)
class HandleSet:
    """Descriptors held under one name. Whoever has the value owns ``fds`` and closes them once."""

    name: str
    kind: str
    meta: dict[str, Any]
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the descriptors; the keeper's copies stay."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)


class KeeperClient:
    """A connection to the keeper at ``path``. Raises KeeperGone, and Unsupported for a version."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(timeout_s)
        try:
            self._connect()
            version = self.status()["version"]
        except (OSError, KeeperGone) as err:
            self._socket.close()
            raise KeeperGone(f"{path}: no keeper answers: {err}") from err
        if version != VERSION:
            self._socket.close()
            raise Unsupported(f"{path}: keeper speaks version {version}, expected {VERSION}")

    def _connect(self) -> None:
        """Connect through the directory's descriptor: a socket's path has 107 bytes at most."""
        place = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{place}/{self.path.name}")
        finally:
            os.close(place)

    def put(self, held: HandleSet) -> None:
        """Give the keeper copies of the descriptors; a set of the same name is replaced."""
        request = {"op": "put", "kind": held.kind, "name": held.name, "meta": held.meta}
        self._ask(request, held.fds)

    def get(self, name: str) -> HandleSet:
        """Return copies of a set; the caller owns them. Raises KeeperRefused if there is none."""
        answer, fds = self._ask({"op": "get", "name": name})
        return HandleSet(name, answer["kind"], answer["meta"], fds)

    def names(self, kind: str | None = None) -> list[str]:
        """Return the names of the sets of one kind, or of all."""
        names: list[str] = []
        request: dict[str, Any] = {"op": "list", "kind": kind}
        while True:
            answer, _ = self._ask(request)
            names += answer["names"]
            if not answer.get("more", False):  # a keeper of an earlier agent sends all at once
                return names
            request["after"] = names[-1]

    def drop(self, name: str) -> None:
        """Close the keeper's copies of a set; unknown names are no error."""
        self._ask({"op": "drop", "name": name})

    def supervise(self, kind: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Have a worker started and kept alive; for a known kind, change its next command line."""
        self._ask({"op": "supervise", "kind": kind, "argv": list(argv), "env": dict(env)})

    def restart(self, kind: str) -> None:
        """End the worker of ``kind``; its successor takes over at once."""
        self._ask({"op": "restart", "kind": kind})

    def status(self) -> dict[str, Any]:
        """Return version, pid, and of each worker pid, starts and argv."""
        return self._ask({"op": "status"})[0]

    def shutdown(self) -> None:
        """End the workers, then the keeper. Only when nothing is mounted on what it holds."""
        self._ask({"op": "shutdown"})

    def _ask(
        self, request: dict[str, Any], fds: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        packet = json.dumps(request).encode()
        if len(packet) > PACKET_BYTES:
            raise KeeperRefused(f"request of {len(packet)} bytes, the keeper takes {PACKET_BYTES}")
        with self._lock:
            try:
                socket.send_fds(self._socket, [packet], fds)
                reply, received, flags, _ = socket.recv_fds(
                    self._socket, PACKET_BYTES, DESCRIPTORS_A_SET, socket.MSG_CMSG_CLOEXEC
                )
            except OSError as err:
                # An answer that comes late would be taken for that of the next request.
                self._socket.close()
                raise KeeperGone(f"{self.path}: the keeper does not answer: {err}") from err
        if not reply:
            raise KeeperGone(f"{self.path}: the keeper has ended")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for fd in received:
                os.close(fd)
            raise KeeperGone(f"{self.path}: the answer came in part: descriptors are short")
        answer: dict[str, Any] = json.loads(reply)
        if not answer["ok"]:
            raise KeeperRefused(f"{self.path}: {answer['error']}")
        return answer, received

    def wait_closed(self) -> None:
        """Block until the keeper ends. For a connection of its own that asks nothing meanwhile."""
        self._socket.settimeout(None)
        try:
            while self._socket.recv(PACKET_BYTES):
                pass
        except OSError:
            return

    def interrupt(self) -> None:
        """Wake a thread that is in ``wait_closed``, from another thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """End the connection; the keeper keeps what it was given."""
        self._socket.close()

    def __enter__(self) -> KeeperClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
