"""Keeps the kernel's cgroup lock in the state in which moving a process is quick.

Every move of a process into a control group takes a lock for writing that is per CPU, and the first
taker waits for an RCU grace period (12-14 ms; kernel/rcu/sync.c, cgroup_threadgroup_rwsem). As long
as somebody takes it again before the next period ends, takers don't wait. CRIU is moved in each
restore, so while restores are under way a thread of ours moves a small idle process between
two groups of our own every few milliseconds: measured, a restore takes 14 ms less of 101.

The idle process is ``cat`` on a pipe that we hold: it ends when we do. Methods may be called from
any thread. Needs root; without it, or without cgroups, nothing is primed and nothing fails.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hotstart.core.log import get_logger
from hotstart.core.run import DEVNULL, PIPE, Process, spawn
from hotstart.kernel.cgroup import Group

log = get_logger(__name__)

_EVERY_S = 0.004


class CgroupPrimer:
    """Primes inside of ``with primer.awake()``. ``parent`` gets two groups; close it in the end."""

    def __init__(self, parent: Group) -> None:
        self._groups = (parent.child("primer-a"), parent.child("primer-b"))
        self._condition = threading.Condition()
        self._users = 0
        self._closed = False
        self._process: Process | None = None
        self._thread: threading.Thread | None = None

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keep moves quick until the end of the block."""
        with self._condition:
            self._users += 1
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="cgroup-primer", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._users -= 1

    def close(self) -> None:
        """End thread and process, remove the groups. Idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            files = self._prepare()
        except OSError as err:
            log.info("cgroup_primer_off", reason=str(err))
            self._end()
            return
        try:
            turn = 0
            while self._wait_for_user():
                turn ^= 1
                files[turn].write_text(f"{self._process.pid if self._process else 0}\n")
        except OSError as err:
            log.info("cgroup_primer_off", reason=str(err))
        finally:
            self._end()

    def _prepare(self) -> tuple[Path, Path]:
        hosts = self._groups[0].hosts
        root = hosts.v2 or next(iter(hosts.v1.values()))
        directories = [root / group.path.lstrip("/") for group in self._groups]
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
        self._process = spawn(["cat"], stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
        return directories[0] / "cgroup.procs", directories[1] / "cgroup.procs"

    def _wait_for_user(self) -> bool:
        """Sleep for one step, or until somebody restores; False when it is over."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._users > 0)
            if not self._closed:
                self._condition.wait_for(lambda: self._closed, timeout=_EVERY_S)
            return not self._closed

    def _end(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
        for group in self._groups:
            with suppress(OSError):
                group.remove()
