"""Finding the agent of a root, and starting it on demand.

The agent that is started here has /dev/null for its three streams, a session and a control group
of its own (it outlives the shell), and inherits the environment, where a store's credentials may
be. Two callers may start it at once: the lock lets one through, the other waits for its socket.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import agent
from agent.client import AgentClient, socket_of
from agent.values import FillerName
from hotstart.core.errors import HotstartError, Unavailable, Unsupported, UserError
from hotstart.core.run import DEVNULL, Process, spawn
from hotstart.kernel.pidfd import ProcessIdentity

LOCK_TAKEN_STATUS = 75
"""Exit status of an agent that finds the root locked by another (EX_TEMPFAIL, sysexits.h)."""

UNSUPPORTED_STATUS = 69
"""Exit status of an agent that this host lacks something for (EX_UNAVAILABLE, sysexits.h)."""

START_TIMEOUT_S = 60.0
_POLL_S = 0.02
_REASON = re.compile(r' reason=("(?:[^"\\]|\\.)*")$')
_PROBE_TIMEOUT_S = 5.0


class NotRoot(UserError):
    """Containers, mounts and namespaces need root."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs root", "run it as root, for example with sudo")


class NoAgent(Unavailable):
    """No agent runs for a root."""

    def __init__(self, root: Path) -> None:
        super().__init__(f"no agent runs for {root}; start one with: hotstart agent start")
        self.root = root


class AgentDidNotStart(HotstartError):
    """The agent ended before it answered; the message holds the last line of its log."""


class RootUnusable(UserError):
    """The directory of a root cannot be made, or something else is there."""


def make_root(root: Path) -> None:
    """Make the directory of a root unless it is there. Raises RootUnusable."""
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as err:
        raise RootUnusable(f"{root}: {err.strerror}", "choose another --root") from err


def require_root(what: str) -> None:
    """Raise NotRoot unless this process is root."""
    if os.geteuid() != 0:
        raise NotRoot(what)


def is_running(root: Path) -> bool:
    """Tell whether an agent holds the lock of ``root``, answering or not."""
    try:
        lock = os.open(root / "agent.lock", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as err:
        raise NotRoot("the agent") from err
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def connect(root: Path) -> AgentClient:
    """Return a client of the running agent. Raises NoAgent, or NotRoot when it may not be asked."""
    if not is_running(root):
        raise NoAgent(root)
    client = AgentClient(root)
    try:
        _await(client, None, root)
    except BaseException:
        client.close()
        raise
    return client


def ensure(
    root: Path, *, environment: Mapping[str, str], filler: FillerName = "auto"
) -> tuple[AgentClient, bool]:
    """Return a client of the agent of ``root`` and whether it was started just now.

    An agent that is started gets ``environment`` (see agent.warm_store).

    Raises NotRoot, AgentDidNotStart, or Unavailable after START_TIMEOUT_S.
    """
    require_root("running containers and mounting images")
    process = None if is_running(root) else _spawn(root, filler, environment)
    client = AgentClient(root)
    try:
        _await(client, process, root)
    except BaseException:
        client.close()
        raise
    return client, process is not None


def await_end(
    root: Path, process: ProcessIdentity | None = None, *, timeout_s: float = START_TIMEOUT_S
) -> None:
    """Block until no agent holds the lock of ``root``, and the ``process`` that did is gone.

    Raises Unavailable after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while is_running(root) or (process is not None and process.alive):
        if time.monotonic() > deadline:
            raise Unavailable(f"the agent of {root} did not end within {timeout_s:g} s")
        time.sleep(_POLL_S)


def agent_command(root: Path, filler: FillerName) -> list[str]:
    """Return what starts an agent; nothing is imported from the directory it is started in."""
    words = ["-P", "-m", "agent.main", "--root", str(root), "--filler", filler]
    return [sys.executable, *words]


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with the place of these packages, installed or not."""
    others = environment.get("PYTHONPATH", "").split(os.pathsep)
    # Any other entry would mean a place below the directory that the agent is started in.
    paths = [str(Path(agent.__file__).parents[1]), *filter(os.path.isabs, others)]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def _spawn(root: Path, filler: FillerName, environment: Mapping[str, str]) -> Process:
    """Start an agent; a thread of ours waits for it, so that it never stays a zombie."""
    socket_of(root)  # refuses a path that is too long before anything is made
    make_root(root)
    process = spawn(
        agent_command(root, filler),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        env=agent_environment(environment),
        cwd=Path("/"),
        new_session=True,
    )
    threading.Thread(target=process.wait, name="agent-reaper", daemon=True).start()
    return process


def _await(client: AgentClient, process: Process | None, root: Path) -> None:
    """Ask until the agent answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.status(timeout_s=_PROBE_TIMEOUT_S)
        except Unavailable:
            if process is not None and process.poll() not in (None, LOCK_TAKEN_STATUS):
                raise _not_started(root, process.returncode) from None
            if process is None and not is_running(root):
                raise NoAgent(root) from None
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _not_started(root: Path, status: int) -> HotstartError:
    if status == UNSUPPORTED_STATUS:
        return Unsupported(f"the agent of {root} cannot run: {_last(root)}; see hotstart doctor")
    return AgentDidNotStart(f"the agent of {root} ended with status {status}: {_last(root)}")


def _last(root: Path) -> str:
    """Return the reason in the last line of the agent's log, or that line."""
    try:
        lines = (root / "agent.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    if not lines:
        return "its log is empty"
    reason = _REASON.search(lines[-1])
    return str(json.loads(reason[1])) if reason else lines[-1]
