"""The control socket of the fill worker: JSON lines over AF_UNIX, one answer a request.

    {"op": NAME, ...}  ->  {"ok": true, "result": ...}
                       or  {"ok": false, "kind": CLASS, "root": ROOT CLASS, "error": TEXT,
                            "hint": TEXT}

A thread a connection, so that a request may wait; a bad request is answered and ends nothing. The
socket is the same user's only (mode 0600) and is replaced at start: one worker serves a node.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hotstart.core.errors import HotstartError, UserError
from hotstart.core.log import get_logger
from lazyfs.error_roots import error_to_json

log = get_logger(__name__)

MAX_LINE_BYTES = 256 << 20
"""A plan with its index fits; more is nobody's request."""
SHORTAGE_S = 0.05
"""Pause after a connection that could not be taken."""

Request: TypeAlias = dict[str, Any]
Operation: TypeAlias = Callable[[Request], Any]


class ControlServer:
    """Serves operations by name at ``path``."""

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._listener = _listen(path)
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Take no more connections. Requests under way go on; if the process ends before they do,
        their clients ask its successor.
        """
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                if not self._closing:  # descriptors are short; the connection waits meanwhile
                    time.sleep(SHORTAGE_S)
                continue
            try:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            except RuntimeError as err:  # threads are short: the client asks again
                log.warning("request_not_served", reason=err)
                client.close()

    def _serve(self, client: socket.socket) -> None:
        # A client that is gone is no matter.
        with contextlib.suppress(OSError), client, client.makefile("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                client.sendall(json.dumps(self._answer(line)).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return {"ok": True, "result": self._carry_out(json.loads(line))}
        except HotstartError as err:
            return {"ok": False, "kind": type(err).__name__, **error_to_json(err)}
        except Exception as err:  # whatever it is, the client must be answered
            bug = HotstartError(f"{type(err).__name__}: {err}")
            log.warning("request_failed", error=bug)
            return {"ok": False, "kind": "HotstartError", **error_to_json(bug)}

    def _carry_out(self, request: object) -> object:
        if not isinstance(request, dict) or request.get("op") not in self._operations:
            raise UserError("not a request of the fill worker")
        return self._operations[request["op"]](request)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        listener.bind(os.fspath(staged))
        os.chmod(staged, 0o600)
        listener.listen(64)
        os.replace(staged, path)
    except BaseException:
        listener.close()
        raise
    return listener
