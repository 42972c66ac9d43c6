"""The page worker: serves the memory of every restore of one node; run under the keeper.

    python -m snapshotter.page_worker --run-dir ROOT/run

At start it takes over every set of kind ``page`` that the keeper holds; sessions go on as if
nothing had happened. It may be killed at any instant. On the AF_UNIX stream socket
RUN_DIR/page.sock (root only) it takes one JSON request a line and answers with one line each:

    {"op":"open","spec":SPEC}            a session; CRIU may connect when the answer is there
    {"op":"stats","session":ID}          counters, state, failure, missing_bytes
    {"op":"recording","session":ID}      first touches: [ms, memory file, page], in order
    {"op":"fill","session":ID}           make everything resident, then let go
    {"op":"close","session":ID,"force":B}  forget it; refused while processes still need it
    {"op":"list"} {"op":"ping"}

Other workers die with the keeper; this one outlives it, since for a moment after each restore and
each fork the agent has no copy of a descriptor yet (last_holder.py).

The worker never maps or imports anything below a mount of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hotstart.core.errors import HotstartError, UserError
from hotstart.core.log import configure, get_logger
from hotstart.kernel.keeper_client import KeeperClient
from hotstart.kernel.libc import outlive_parent
from snapshotter.page_sessions import PageSessions
from snapshotter.session_spec import SessionSpec

log = get_logger(__name__)

SOCKET = "page.sock"
_REQUEST_BYTES = 64 << 20


class PageService:
    """Answers requests; each connection has a thread, sessions have their own."""

    def __init__(self, sessions: PageSessions) -> None:
        self._sessions = sessions

    def serve(self, client: socket.socket) -> None:
        """Answer until the client closes."""
        with client, client.makefile("rb") as lines:
            for line in iter(lambda: lines.readline(_REQUEST_BYTES), b""):
                answer = self.answer(line)
                if self._sessions.stopping:
                    return  # what stands still here goes on there: the client asks the successor
                with suppress(OSError):
                    client.sendall(json.dumps(answer).encode() + b"\n")

    def answer(self, line: bytes) -> dict[str, Any]:
        """Carry one request out; errors become answers."""
        try:
            request = json.loads(line)
            return {"ok": True, **self._carry_out(request)}
        except (HotstartError, OSError) as err:
            return {"ok": False, "error": str(err), "kind": type(err).__name__}
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            return {"ok": False, "error": f"bad request: {err!r}", "kind": "UserError"}

    def _carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "ping":
                return {"pid": os.getpid()}
            case "list":
                return {"sessions": self._sessions.names()}
            case "open":
                self._sessions.open(SessionSpec.decode(request["spec"]))
                return {}
            case "stats":
                return {"stats": self._sessions.stats(request["session"])}
            case "recording":
                return {"first_touches": self._sessions.recording(request["session"])}
            case "fill":
                self._sessions.fill(request["session"])
                return {}
            case "close":
                self._sessions.close(request["session"], force=bool(request.get("force")))
                return {}
        raise UserError(f"unknown operation {request['op']!r}")


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By descriptor: the path may be longer than a socket address; nobody else may connect.
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        path.chmod(0o600)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; sessions are left to the successor."""
    parser = argparse.ArgumentParser(prog="page_worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir: Path = parser.parse_args(argv).run_dir
    configure()
    keeper_socket = run_dir / "keeper.sock"
    with KeeperClient(keeper_socket) as keeper, KeeperClient(keeper_socket) as watched:
        outlive_parent()
        sessions = PageSessions(keeper)
        sessions.take_over()
        listener = _listen(run_dir / SOCKET)
        signal.signal(signal.SIGTERM, lambda *_: listener.shutdown(socket.SHUT_RDWR))
        service = PageService(sessions)
        lost = threading.Event()
        threading.Thread(target=_watch, args=(watched, lost, listener), daemon=True).start()
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    break
                threading.Thread(target=service.serve, args=(client,), daemon=True).start()
        if lost.is_set():
            sessions.outlive(keeper_socket)
            # Threads may wait for reads that only the next keeper's workers answer.
            os._exit(0)
        sessions.stop()
    return 0


def _watch(keeper: KeeperClient, lost: threading.Event, listener: socket.socket) -> None:
    """Have the worker end when the keeper does."""
    keeper.wait_closed()
    lost.set()
    with suppress(OSError):  # it ends already
        listener.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    raise SystemExit(main())
