"""The keeper: holds kernel descriptors for processes that may die, and keeps those processes alive.

Run as ``python -S -E keeper.py RUN_DIR CONFIG_JSON``; CONFIG_JSON may name workers to start:
``{"workers": {KIND: {"argv": [...], "env": {...}}}}``. Standard library only, one thread, no I/O on
what it holds: the last close of a fanotify group lets readers see zeros, so it must outlive
everybody. Bad requests are answered with an error and never end it.
Protocol (version 1) on the AF_UNIX SOCK_SEQPACKET socket RUN_DIR/keeper.sock, for the same user
only: one JSON object a packet (at most 64 KiB), descriptors beside it by SCM_RIGHTS; each request
gets one answer, ``{"ok": true, ...}`` or ``{"ok": false, "error": TEXT}``. Operations: put, get,
list, drop, status, supervise, restart, shutdown (docs/design/contracts.md).

One keeper per RUN_DIR: it holds a lock on RUN_DIR/keeper.lock. Workers get PR_SET_PDEATHSIG SIGKILL
(an orphan that still holds a group would block every reader); they find their sets by list and get.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

VERSION = 1
PACKET_BYTES = 64 * 1024
NAMES_AN_ANSWER = 40  # of 256 characters, each escaped (6 bytes): they fit a packet
DESCRIPTORS_A_SET = 64
CLIENTS = 256
STOP_S = 5.0
QUICK_STARTS_A_MINUTE = 120
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Request = dict[str, Any]
Answer = tuple[Request, list[int]]


class Refused(Exception):
    """A request that can't be carried out; its text is the answer."""


class HeldSet:
    """Descriptors of one name, owned by the keeper, and what their owner wrote beside them."""

    def __init__(self, kind: str, meta: Request, fds: list[int]) -> None:
        self.kind = kind
        self.meta = meta
        self.fds = fds

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class Worker:
    """A supervised program: restarted at once when it had come to serve, with backoff otherwise."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.argv = argv
        self.env = env
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.served = False
        self.starts: list[float] = []
        self.start_count = 0
        self.failures = 0
        self.due = 0.0

    def start(self) -> None:
        now = time.monotonic()
        self.starts = [*(at for at in self.starts if at > now - 60), now]
        self.start_count += 1
        self.served = False
        # SAFETY: argv comes from the agent over a socket of the same user; no shell reads it.
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.env},
            preexec_fn=_die_with_parent,  # safe: this process has one thread
            close_fds=True,
        )
        self.pidfd = os.pidfd_open(self.process.pid)

    def ended(self) -> None:
        """Reap, and say when the next start is due."""
        if self.process is not None:
            self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.process, self.pidfd = None, -1
        self.failures = 0 if self.served else self.failures + 1
        crowded = len(self.starts) >= QUICK_STARTS_A_MINUTE
        delay = min(5.0, 0.05 * 2**self.failures) if self.failures else 0.0
        self.due = time.monotonic() + max(delay, 1.0 if crowded else 0.0)

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)


def _die_with_parent() -> None:
    """Between fork and exec in a worker: end with the keeper, whatever ends it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


class Keeper:
    """The event loop. All state is here and used by one thread."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.sets: dict[str, HeldSet] = {}
        self.workers: dict[str, Worker] = {}
        self.selector = selectors.DefaultSelector()
        self.listener = _listen(f"{run_dir}/keeper.sock")
        self.clients = 0
        self.stopping_since: float | None = None
        self.operations: dict[str, Callable[[Request, list[int]], Answer]] = {
            "put": self.put,
            "get": self.get,
            "list": self.list_names,
            "drop": self.drop,
            "status": self.status,
            "supervise": self.supervise,
            "restart": self.restart,
            "shutdown": self.shutdown,
        }

    def serve(self) -> None:
        """Serve until shutdown has been asked for and every worker has ended."""
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        while not (self.stopping_since is not None and self.idle()):
            for key, _ in self.selector.select(self.next_due()):
                key.data(key.fileobj)
            self.start_due()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.run_dir}/keeper.sock")

    def idle(self) -> bool:
        return all(worker.process is None for worker in self.workers.values())

    def next_due(self) -> float | None:
        """Seconds until something must happen without a message; None: nothing will."""
        now = time.monotonic()
        if self.stopping_since is not None:
            return max(0.0, self.stopping_since + STOP_S - now) if not self.idle() else 0.0
        due = [worker.due for worker in self.workers.values() if worker.process is None]
        return max(0.0, min(due) - now) if due else None

    def start_due(self) -> None:
        now = time.monotonic()
        if self.stopping_since is not None:
            if now >= self.stopping_since + STOP_S:
                for worker in self.workers.values():
                    worker.signal(signal.SIGKILL)
            return
        for worker in self.workers.values():
            if worker.process is None and worker.due <= now:
                self.start(worker)

    def start(self, worker: Worker) -> None:
        try:
            worker.start()
            self.selector.register(worker.pidfd, selectors.EVENT_READ, lambda _: self.reap(worker))
        except (OSError, ValueError, subprocess.SubprocessError) as err:  # whatever argv may hold
            worker.signal(signal.SIGKILL)  # unwatched, its death would leave readers waiting
            worker.ended()
            say(f"keeper_worker_start_failed argv={worker.argv[0]} error={err}")

    def reap(self, worker: Worker) -> None:
        self.selector.unregister(worker.pidfd)
        worker.ended()

    def accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has gone, or descriptors are short: it asks again
        client.setblocking(False)
        try:
            if _peer(client)[1] != os.geteuid() or self.clients >= CLIENTS:
                raise PermissionError
            self.selector.register(client, selectors.EVENT_READ, self.receive)
            self.clients += 1
        except OSError:
            client.close()

    def receive(self, client: socket.socket) -> None:
        """Answer one packet; a client that is gone or doesn't read its answers is dropped."""
        try:
            packet, fds, flags, _ = socket.recv_fds(
                client, PACKET_BYTES, DESCRIPTORS_A_SET, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            packet, fds, flags = b"", [], 0
        if not packet and not fds:
            self.forget(client)
            return
        answer, attached = self.answer(client, packet, fds, flags)
        try:
            socket.send_fds(client, [json.dumps(answer).encode()], attached)
        except OSError:
            self.forget(client)

    def forget(self, client: socket.socket) -> None:
        self.selector.unregister(client)
        client.close()
        self.clients -= 1

    def answer(self, client: socket.socket, packet: bytes, fds: list[int], flags: int) -> Answer:
        """Carry out a request. Descriptors that no set took over are closed."""
        before = {fd for held in self.sets.values() for fd in held.fds}
        try:
            request = _parse(packet, flags)
            if _text(request, "op") == "list":
                self.note_served(_peer(client)[0])
            return self.operations.get(request["op"], _unknown)(request, fds)
        except Refused as err:
            return {"ok": False, "error": str(err)}, []
        except Exception as err:  # the keeper must outlive every request
            return {"ok": False, "error": f"keeper: {type(err).__name__}: {err}"}, []
        finally:
            kept = {fd for held in self.sets.values() for fd in held.fds} - before
            for fd in fds:
                if fd not in kept:
                    os.close(fd)

    def note_served(self, pid: int) -> None:
        for worker in self.workers.values():
            if worker.process is not None and worker.process.pid == pid:
                worker.served = True

    def put(self, request: Request, fds: list[int]) -> Answer:
        name, kind = _text(request, "name"), _text(request, "kind")
        meta = request.get("meta", {})
        if not isinstance(meta, dict):
            raise Refused("meta is not an object")
        old = self.sets.get(name)
        self.sets[name] = HeldSet(kind, cast(Request, meta), list(fds))
        if old is not None:
            old.close()
        return {"ok": True}, []

    def get(self, request: Request, _: list[int]) -> Answer:
        held = self.sets.get(_text(request, "name"))
        if held is None:
            raise Refused(f"no set named {request['name']!r}")
        return {"ok": True, "kind": held.kind, "meta": held.meta}, held.fds

    def list_names(self, request: Request, _: list[int]) -> Answer:
        """Names in order, beginning behind ``after``; ``more``: ask again behind the last one."""
        kind, after = request.get("kind"), request.get("after", "")
        named = (name for name, held in self.sets.items() if kind in (None, held.kind))
        names = sorted(name for name in named if name > after)
        more = len(names) > NAMES_AN_ANSWER
        return {"ok": True, "names": names[:NAMES_AN_ANSWER], "more": more}, []

    def drop(self, request: Request, _: list[int]) -> Answer:
        held = self.sets.pop(_text(request, "name"), None)
        if held is not None:
            held.close()
        return {"ok": True}, []

    def status(self, _: Request, __: list[int]) -> Answer:
        workers = {
            kind: {
                "pid": worker.process.pid if worker.process is not None else None,
                "starts": worker.start_count,
                "argv": worker.argv,
            }
            for kind, worker in self.workers.items()
        }
        return {"ok": True, "version": VERSION, "pid": os.getpid(), "workers": workers}, []

    def supervise(self, request: Request, _: list[int]) -> Answer:
        kind, argv, env = _text(request, "kind"), request.get("argv"), request.get("env", {})
        if not (isinstance(argv, list) and argv and all(isinstance(w, str) for w in argv)):
            raise Refused("argv is not a list of words")
        if not isinstance(env, dict) or not all(isinstance(v, str) for v in env.values()):
            raise Refused("env is not an object of texts")
        if self.stopping_since is not None:
            raise Refused("the keeper is shutting down")
        worker = self.workers.get(kind)
        if worker is None:
            worker = self.workers[kind] = Worker(argv, cast(dict[str, str], env))
            self.start(worker)
        else:  # a new command line is used from the next start on
            worker.argv, worker.env = argv, cast(dict[str, str], env)
        return {"ok": True}, []

    def restart(self, request: Request, _: list[int]) -> Answer:
        worker = self.workers.get(_text(request, "kind"))
        if worker is None:
            raise Refused(f"no worker of kind {request['kind']!r}")
        worker.signal(signal.SIGTERM)
        return {"ok": True}, []

    def shutdown(self, _: Request, __: list[int]) -> Answer:
        if self.stopping_since is None:
            self.stopping_since = time.monotonic()
        for worker in self.workers.values():
            worker.signal(signal.SIGTERM)
        return {"ok": True}, []


def _unknown(request: Request, _: list[int]) -> Answer:
    raise Refused(f"unknown operation {request['op']!r}")


def _parse(packet: bytes, flags: int) -> Request:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise Refused("the packet is too long, or its descriptors are too many")
    request = json.loads(packet)
    if not isinstance(request, dict):
        raise Refused("the request is not an object")
    if request.get("version", VERSION) != VERSION:
        raise Refused(f"protocol version {request['version']!r}, this keeper speaks {VERSION}")
    return request


def _text(request: Request, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not (0 < len(value) <= 256 and value.isascii()):
        raise Refused(f"{key} is not a short ASCII text")
    return value


def _peer(client: socket.socket) -> tuple[int, int, int]:
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # pid, uid, gid: socket(7)
    return cast(tuple[int, int, int], tuple(memoryview(raw).cast("i")))


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    directory, name = os.path.split(path)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Through the descriptor: a socket's path is limited to 107 bytes.
    listener.bind(f"/proc/self/fd/{place}/{name}")
    os.close(place)
    os.chmod(path, 0o600)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def say(line: str) -> None:
    """Write one line to stderr, if that still leads anywhere."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def harden() -> None:
    """Leave the starter's session, survive its signals and memory pressure, raise limits."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write("-1000")  # lowering it needs CAP_SYS_RESOURCE


def main(argv: list[str]) -> int:
    """Hold RUN_DIR's lock and serve; 3: another keeper does so already."""
    run_dir, config = argv[1], json.loads(argv[2]) if len(argv) > 2 else {}
    harden()
    with open(f"{run_dir}/keeper.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"keeper_refused run_dir={run_dir} reason=another_keeper_runs")
            return 3
        keeper = Keeper(run_dir)
        for kind, worker in config.get("workers", {}).items():
            keeper.supervise({"kind": kind, **worker}, [])
        keeper.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
