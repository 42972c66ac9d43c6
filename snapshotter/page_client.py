"""Client of the page worker: opens sessions, asks how they go, closes them.

One connection a request, so that a worker that has been restarted in between is no matter; while
it is away, requests are tried again for a few seconds. Methods block and may be called from any
thread. Errors that the worker names come back as the classes they were.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from hotstart.core.errors import Conflict, HotstartError, Unavailable
from snapshotter.page_sessions import SessionInUse, SessionUnknown
from snapshotter.session_spec import SessionSpec, SpecInvalid

_AWAY_S = 10.0
_ANSWER_S = 60.0
_ERRORS: dict[str, type[HotstartError]] = {
    kind.__name__: kind for kind in (SessionInUse, SessionUnknown, SpecInvalid, Conflict)
}


class PageWorkerGone(Unavailable):
    """Nobody answers on the page worker's socket."""


class PageRefused(HotstartError):
    """The page worker could not do what it was asked."""


class PageClient:
    """Talks to the page worker at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ping(self) -> int:
        """Return the worker's pid."""
        return int(self._ask({"op": "ping"})["pid"])

    def open_session(self, spec: SessionSpec) -> str:
        """Begin a session; CRIU may connect now. Returns the session's name."""
        self._ask({"op": "open", "spec": spec.encode()})
        return spec.session

    def session_stats(self, session: str) -> dict[str, Any]:
        """Return state, failure, missing_bytes and counters. Raises SessionUnknown."""
        stats: dict[str, Any] = self._ask({"op": "stats", "session": session})["stats"]
        return stats

    def recording(self, session: str) -> list[tuple[float, int, int]]:
        """Return first touches: (milliseconds, memory file, page), in order."""
        answer = self._ask({"op": "recording", "session": session})
        return [(float(at), int(file), int(page)) for at, file, page in answer["first_touches"]]

    def background_fill(self, session: str) -> None:
        """Have the rest of the memory installed, and the session end."""
        self._ask({"op": "fill", "session": session})

    def close(self, session: str, *, force: bool = False) -> None:
        """Forget a session. Raises SessionInUse while a process needs it, unless ``force``.

        Force only when no process of the container is left: what is missing reads as zeros.
        """
        self._ask({"op": "close", "session": session, "force": force})

    def sessions(self) -> list[str]:
        """Return the names of the sessions that the worker knows."""
        return list(self._ask({"op": "list"})["sessions"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + _AWAY_S
        while True:
            try:
                line = self._exchange(json.dumps(request).encode() + b"\n")
            except OSError as err:
                if time.monotonic() > deadline:
                    raise PageWorkerGone(f"{self.path}: no page worker answers: {err}") from err
                time.sleep(0.01)
                continue
            answer: dict[str, Any] = json.loads(line)
            if not answer["ok"]:
                kind = _ERRORS.get(answer.get("kind", ""), PageRefused)
                raise kind(answer["error"])
            return answer

    def _exchange(self, line: bytes) -> bytes:
        directory = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(_ANSWER_S)
                client.connect(f"/proc/self/fd/{directory}/{self.path.name}")
                client.sendall(line)
                with client.makefile("rb") as answers:
                    answer = answers.readline()
        finally:
            os.close(directory)
        if not answer:
            raise ConnectionResetError("the page worker ended in between")
        return answer
