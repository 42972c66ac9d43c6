"""The agent's side of the keeper: starts it, holds a second copy of every set, starts it again.

fanotify and userfaultfd fail open: at the last close of a handle, readers see zeros. With two
holders either may die. If the keeper ends, the guard starts another and puts every set back, and
readers merely wait; if the agent ends, the next guard finds the keeper and copies every set.

One lock orders everything; methods may be called from any thread. ``close`` ends the guard and its
copies and leaves the keeper running; ``shutdown`` ends the keeper too and is right only when
nothing is mounted or restored on what it holds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hotstart.core.errors import HotstartError, Unavailable, Unsupported
from hotstart.core.log import get_logger
from hotstart.core.run import DEVNULL, spawn
from hotstart.kernel import keeper as keeper_program
from hotstart.kernel.keeper_client import HandleSet, KeeperClient, KeeperGone, KeeperRefused
from lazyfs.descriptor_room import limit_of
from lazyfs.program_version import VARIABLE

log = get_logger(__name__)

START_TIMEOUT_S = 15.0
WATCH_INTERVAL_S = 1.0


class KeeperUnstartable(Unavailable):
    """The keeper did not come to answer in time; its log says why."""


class GuardClosed(Unavailable):
    """The guard has ended; it neither asks a keeper nor starts one."""


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """A worker that the keeper keeps alive; ``env`` is added to the keeper's environment."""

    kind: str
    argv: Sequence[str]
    env: Mapping[str, str]
    kept: str = ""
    """Variables that begin so stay as the running worker has them if ``env`` has none of them."""
    code: str = ""
    """The version of the program (program_version.py); empty: it doesn't matter."""

    def following(self, had: Mapping[str, str]) -> WorkerCommand:
        """Return the command for what comes after a worker that was started with ``had``."""
        if not self.kept or any(name.startswith(self.kept) for name in self.env):
            return self
        kept = {name: value for name, value in had.items() if name.startswith(self.kept)}
        return replace(self, env={**kept, **self.env})


class KeeperGuard:
    """Keeps a keeper alive in ``run_dir`` and a copy of what it holds."""

    def __init__(self, run_dir: Path, workers: Sequence[WorkerCommand] = ()) -> None:
        self._run_dir = run_dir
        self._socket = run_dir / "keeper.sock"
        self._workers = list(workers)
        self._lock = threading.RLock()
        self._client: KeeperClient | None = None
        self._sets: dict[str, HandleSet] = {}
        self.restarts = 0
        """How many keepers this guard has found dead and replaced."""
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="keeper-guard", daemon=True)

    def start(self) -> None:
        """Find or start the keeper, copy what it holds, have the workers run, and keep watch."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._connect()
            self.refresh()
        self._watcher.start()

    def put(self, held: HandleSet) -> None:
        """Have the keeper hold a set too; the guard takes over the caller's copy.

        A set of the same name is replaced. On failure the caller's copy is closed.
        """
        with self._lock:
            try:
                self._asking().put(held)
            except BaseException:
                held.close()
                raise
            old = self._sets.get(held.name)
            self._sets[held.name] = held
            if old is not None:
                old.close()

    def update_meta(self, name: str, meta: dict[str, Any]) -> None:
        """Replace what stands beside a set."""
        with self._lock:
            held = self._sets[name]
            held.meta = meta
            self._asking().put(held)

    def get(self, name: str) -> HandleSet | None:
        """Return the guard's own copy: its descriptors stay the guard's. None if unknown."""
        with self._lock:
            return self._sets.get(name)

    def names(self, kind: str) -> list[str]:
        """Return the names of the sets of one kind."""
        with self._lock:
            return [name for name, held in self._sets.items() if held.kind == kind]

    def drop(self, name: str) -> None:
        """Close a set everywhere. Only when nothing depends on it: readers would see zeros."""
        with self._lock:
            self._asking().drop(name)
            held = self._sets.pop(name, None)
            if held is not None:
                held.close()

    def refresh(self) -> None:
        """Copy sets that workers gave to the keeper, and let go of those that are gone."""
        with self._lock:
            client = self._asking()
            names = set(client.names())
            for name in names - set(self._sets):
                try:
                    self._sets[name] = client.get(name)
                except KeeperRefused:
                    continue  # dropped in between
            for name in set(self._sets) - names:
                self._sets.pop(name).close()

    def status(self) -> dict[str, Any]:
        """Return the keeper's word on itself and its workers."""
        with self._lock:
            return self._asking().status()

    def glance(self, wait_s: float) -> dict[str, Any] | None:
        """Return what ``status`` does, None if no keeper answers in ``wait_s``. Starts none.

        Over a connection of its own: neither does it wait for those who ask or replace the keeper,
        nor do they for it.
        """
        if self._closed.is_set():
            return None
        try:
            with KeeperClient(self._socket, timeout_s=wait_s) as client:
                return client.status()
        except (KeeperGone, Unsupported):
            return None

    def restart_worker(self, kind: str) -> None:
        """Replace a worker; its successor answers what it leaves behind."""
        with self._lock:
            self._asking().restart(kind)

    def renew_workers(self) -> list[str]:
        """Replace the workers that run other code than their successors would; return their kinds.

        Readers wait for the successors. Not for a worker that serves FUSE: its mounts end with it.
        """
        with self._lock:
            running = self._asking().status()["workers"]
            renewed = []
            for worker in self._workers:
                pid = running.get(worker.kind, {}).get("pid")
                had = {} if pid is None else _variables(pid)
                if had and had.get(VARIABLE, "") != worker.code:
                    log.info("keeper_worker_renewed", kind=worker.kind, pid=pid)
                    self._asking().restart(worker.kind)
                    renewed.append(worker.kind)
            return renewed

    def descriptor_limit(self) -> int:
        """Return how many descriptors agent, keeper and workers may each have."""
        return min(limit_of(os.getpid()), limit_of(self.status()["pid"]))

    def close(self) -> None:
        """End the guard; the keeper goes on."""
        self._closed.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
            for held in self._sets.values():
                held.close()
            self._sets.clear()

    def shutdown(self) -> None:
        """End workers and keeper, then the guard. Nothing may be mounted on the sets any more."""
        self._closed.set()
        with self._lock:
            if self._client is not None:
                self._client.shutdown()
                self._client.wait_closed()
        self.close()

    def _asking(self) -> KeeperClient:
        """Return a client that answers; a dead keeper is replaced first. Raises GuardClosed.

        A keeper that was ended on purpose is not dead: the watch thread may have been waiting for
        the lock while ``shutdown`` held it.
        """
        if self._closed.is_set():
            raise GuardClosed(f"{self._run_dir}: the guard of the keeper is closed")
        if self._client is not None:
            try:
                self._client.status()
            except KeeperGone:
                self._replace()
        else:
            self._connect()
        assert self._client is not None  # noqa: S101  # _connect sets it or raises
        return self._client

    def _replace(self) -> None:
        log.warning("keeper_gone", run_dir=self._run_dir, sets=len(self._sets))
        self.restarts += 1
        if self._client is not None:
            self._client.close()
            self._client = None
        self._connect()

    def _connect(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        started = False
        while True:
            try:
                client = KeeperClient(self._socket)
                break
            except KeeperGone as err:
                if time.monotonic() > deadline:
                    raise KeeperUnstartable(
                        f"{self._run_dir}: the keeper does not answer; see keeper.log there"
                    ) from err
            if not started:
                self._spawn()
                started = True
            time.sleep(0.005)
        try:
            self._equip(client)
        except BaseException:
            client.close()
            raise
        self._client = client

    def _equip(self, client: KeeperClient) -> None:
        """Put back what the keeper lacks, then have the workers run.

        A keeper that lacks anything is never asked for its names: ``refresh`` would take what is
        missing for dropped, and close the last copy.
        """
        names = set(client.names())
        for held in self._sets.values():
            if held.name not in names:
                client.put(held)
        running = client.status()["workers"]
        for at, worker in enumerate(self._workers):
            pid = running.get(worker.kind, {}).get("pid")
            had = {} if pid is None else _variables(pid)
            self._workers[at] = worker = worker.following(had)
            client.supervise(worker.kind, worker.argv, {**worker.env, VARIABLE: worker.code})
            if had and any(had.get(name) != value for name, value in worker.env.items()):
                log.info("keeper_worker_outdated", kind=worker.kind, pid=pid)
                client.restart(worker.kind)

    def _spawn(self) -> None:
        argv = [sys.executable, "-S", "-E", keeper_program.__file__, str(self._run_dir)]
        with (self._run_dir / "keeper.log").open("ab") as output:
            # setsid --fork: the keeper belongs to nobody who could forget to wait for it.
            starter = spawn(["setsid", "--fork", *argv], stdout=DEVNULL, stderr=output)
        starter.wait()

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_INTERVAL_S):
            try:
                self.refresh()
            except GuardClosed:
                return
            except (HotstartError, OSError) as err:
                log.warning("keeper_watch_failed", error=str(err))


def _variables(pid: int) -> dict[str, str]:
    """Return what a process was started with; nothing if it has ended."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def module_command(kind: str, module: str, run_dir: Path) -> WorkerCommand:
    """Return the command of a worker that is a module of this installation."""
    argv = [sys.executable, "-m", module, "--run-dir", os.fspath(run_dir)]
    return WorkerCommand(kind, argv, {})
