"""The agent's process: ``python -m agent.main --root DIR [--filler NAME] [--foreground]``.

It holds ROOT/agent.lock (flock) as long as it lives, so there is one agent per root; writes its
lines to ROOT/agent.log; answers on ROOT/agent.sock (mode 0660) once everything that was running
is adopted. With HOTSTART_METRICS=HOST:PORT it serves its metrics there, and does not start where
it can't. SIGTERM and SIGINT end it and leave containers, mounts and keepers as they are.

Once the root is let go the process is gone: a call that a client has left, or a store that is
asked in vain, keeps nobody waiting.

Exit status: 0 ended as asked, 1 could not start (the log's last line says why), 69 this host lacks
something (likewise), 75 the root is locked by another agent.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import logging.handlers
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from agent import warm_store
from agent.client import CHANNEL_OPTIONS, socket_of
from agent.launch import LOCK_TAKEN_STATUS, UNSUPPORTED_STATUS, make_root
from agent.node import Node, version
from agent.proto.generated import hotstart_pb2_grpc as pb_grpc
from agent.service import Service
from agent.values import METRICS_VARIABLE, QUOTA_VARIABLE, STORE_VARIABLE, FillerName
from hotstart.core.errors import HotstartError, Unsupported
from hotstart.core.log import configure, get_logger
from hotstart.kernel.cgroup import Group
from lazyfs.cache_quota import parse_quota, write_quota
from runtime.links import root_id

if TYPE_CHECKING:
    from agent.metrics_server import MetricsServer

log = get_logger(__name__)

_CALL_THREADS = 128
"""Followed logs and waits each hold one; a thread that waits costs little."""
_LOG_BYTES = 8 << 20
_CALLS_END_S = 10.0


class RootLocked(HotstartError):
    """Another agent owns this root."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent of one root until it is told to end."""
    parser = argparse.ArgumentParser(prog="hotstart-agent", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--filler", choices=("auto", "fanotify", "fuse"), default="auto")
    parser.add_argument("--foreground", action="store_true")
    options = parser.parse_args(arguments)
    root: Path = options.root.absolute()
    make_root(root)
    _log_to(root / "agent.log", foreground=options.foreground)
    try:
        with _locked(root):
            if quota := os.environ.get(QUOTA_VARIABLE):
                write_quota(root, parse_quota(quota))
            serve(root, filler=options.filler, own_group=not options.foreground)
    except RootLocked as err:
        log.error("agent_refused", reason=err)  # noqa: TRY400  # expected: no traceback
        return LOCK_TAKEN_STATUS
    except HotstartError as err:
        log.error("agent_failed", reason=err)  # noqa: TRY400  # the sentence says it all
        return UNSUPPORTED_STATUS if isinstance(err, Unsupported) else 1
    except Exception:
        logging.getLogger(__name__).exception("agent_broken")
        return 1
    return 0


def serve(root: Path, *, filler: FillerName, own_group: bool) -> None:
    """Adopt what runs, answer calls, and return when told to end."""
    os.chdir("/")
    group = _join_own_group(root) if own_group else None
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    warm_store.preload(os.environ.get(STORE_VARIABLE, ""))
    with (
        _metrics(os.environ.get(METRICS_VARIABLE, "")) as metrics,
        Node(root, filler=filler, environment=os.environ) as node,
    ):
        if metrics is not None:
            metrics.start(node.observe, version())
            node.metrics_url = metrics.address.url
        server = grpc.server(
            ThreadPoolExecutor(_CALL_THREADS, thread_name_prefix="call"), options=CHANNEL_OPTIONS
        )
        pb_grpc.add_AgentServicer_to_server(Service(node, ended.set), server)
        with _socket(root, server):
            server.start()
            log.info("agent_started", root=root, pid=os.getpid(), filler=node.filler)
            ended.wait()
            node.stop_accepting()
            server.stop(_CALLS_END_S).wait()
    if group is not None and node.owns_nothing:
        _leave_group(group)
    log.info("agent_ended", root=root)


@contextmanager
def _metrics(address: str) -> Iterator[MetricsServer | None]:
    """Listen at HOST:PORT, if one is given, before anything of the node is begun."""
    if not address:
        yield None
        return
    from agent.metrics_server import listening  # a library that few agents need

    with listening(address) as server:
        yield server


@contextmanager
def _socket(root: Path, server: grpc.Server) -> Iterator[None]:
    """Bind the socket with mode 0660 from its first moment; remove it at the end."""
    path = socket_of(root)
    path.unlink(missing_ok=True)  # ours: we hold the lock
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the root's lock and write the pid beside it. Raises RootLocked."""
    with open(root / "agent.lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise RootLocked(f"{root}: another agent owns this root") from err
        pid_file = root / "agent.pid"
        pid_file.write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            pid_file.unlink(missing_ok=True)


def _log_to(path: Path, *, foreground: bool) -> None:
    """Write lines to ``path``, two older pieces kept, and to stderr in the foreground."""
    configure()
    file = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=2)
    root_logger = logging.getLogger()
    file.setFormatter(root_logger.handlers[0].formatter)
    if not foreground:
        root_logger.handlers.clear()
    root_logger.addHandler(file)


def _join_own_group(root: Path) -> Group | None:
    """Leave the caller's control group: a session that ends takes its group's processes along.

    Keeper and workers are born in the agent's group. None where there are no control groups.
    """
    try:
        group = Group.named(f"hotstart-agents/{root_id(root)}")
        group.create()
        group.attach(os.getpid())
    except (OSError, HotstartError) as err:
        log.warning("agent_group", reason=err)
        return None
    return group


def _leave_group(group: Group) -> None:
    """Remove the agent's group; nobody else is in it any more."""
    try:
        Group.named("/").attach(os.getpid())
        group.remove()
    except (OSError, HotstartError) as err:
        log.warning("agent_group", reason=err)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # An ordinary exit would wait for threads that are in a store which is away.
    os._exit(status)
