"""An agent of the benchmark's own: with its own root, and gone with everything it owned.

``BenchAgent`` owns the process, the root directory and whatever lies in it: containers, mounts and
keepers are ended before the directory is deleted, also when the agent died. Needs root.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import agent
from agent.client import AgentClient, socket_of
from agent.launch import await_end, is_running
from agent.values import STORE_VARIABLE, FillerName
from bench.store_access import StoreAccess
from hotstart.core.errors import HotstartError, Unavailable
from hotstart.core.log import get_logger
from hotstart.core.run import DEVNULL, Process, TimeoutExpired, spawn
from hotstart.kernel.mounts import mounts_below, unmount

log = get_logger(__name__)

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0
GRACE_S = 1.0
POLL_S = 0.01
NODE_KEY = "keys/node.ed25519"


class AgentUnfit(HotstartError):
    """The agent did not start; the message holds the last lines of its log."""


class BenchAgent:
    """One agent with the new directory ``root``; nothing is left of either afterwards."""

    def __init__(
        self,
        root: Path,
        store: StoreAccess,
        node_key: Path | None = None,
        *,
        filler: FillerName = "auto",
    ) -> None:
        """``node_key``: the signing key to take over, so that its snapshots are trusted."""
        self._filler = filler
        self.root = root
        self.store = store
        self._node_key = node_key
        self._process: Process | None = None
        self._stack = ExitStack()
        self._client: AgentClient | None = None

    def __enter__(self) -> BenchAgent:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
        finally:
            self._client = None

    @property
    def client(self) -> AgentClient:
        """The agent's client, connected."""
        if self._client is None:
            raise Unavailable(f"{self.root}: the agent is not running; enter its context first")
        return self._client

    @property
    def node_key(self) -> Path:
        """The key that signs this agent's snapshots."""
        return self.root / NODE_KEY

    def _start(self) -> None:
        socket_of(self.root)  # refuses a path that is too long before anything is made
        self.root.mkdir(parents=True)
        self._stack.callback(remove_root, self.root)
        if self._node_key is not None:
            target = self.root / NODE_KEY
            target.parent.mkdir(mode=0o700)
            shutil.copy(self._node_key, target)
            target.chmod(0o600)
        self._process = spawn(
            [
                sys.executable,
                "-m",
                "agent.main",
                "--root",
                str(self.root),
                "--filler",
                self._filler,
            ],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={**self.store.env, STORE_VARIABLE: self.store.url},
            cwd=Path(agent.__file__).parents[1],
            new_session=True,
        )
        self._stack.callback(self._end)
        self._client = self._stack.enter_context(AgentClient(self.root))
        self._stack.callback(self._shut_down)
        self._await(self._client, self._process)

    def _await(self, client: AgentClient, process: Process) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                client.status(timeout_s=5)
            except Unavailable:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AgentUnfit(f"the agent did not start: {self._last_words()}") from None
                time.sleep(POLL_S)
            else:
                return

    def _last_words(self) -> str:
        log = self.root / "agent.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(lines[-3:]) or "it left no log"

    def _shut_down(self) -> None:
        """Have the agent end all it owns; wait for one that is still starting.

        Never raises: whatever made us stop matters more than how the agent ends. A command starts
        another agent where ours has died; that one is ended as well.
        """
        deadline = time.monotonic() + END_TIMEOUT_S
        while (self._alive() or is_running(self.root)) and time.monotonic() < deadline:
            try:
                self.client.shutdown(everything=True)
                await_end(self.root, timeout_s=END_TIMEOUT_S)
            except Unavailable:
                time.sleep(POLL_S)
            except HotstartError as err:
                log.warning("agent_not_ended", root=self.root, reason=err)
                return

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(END_TIMEOUT_S)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()


def remove_root(root: Path) -> None:
    """Delete an agent's directory; what an agent that died left mounted goes first."""
    for entry in mounts_below(root):
        log.warning("left_mounted", target=entry.target)
        unmount(entry.target, detach=True)
    shutil.rmtree(root)


def remove_container(client: AgentClient, name: str) -> None:
    """End and delete a container if there is one."""
    if any(found.name == name for found in client.containers()):
        client.stop(name, grace_s=GRACE_S)
        client.remove(name)
