"""The end of a container whose memory cannot be had: kill it, and keep the reason.

The userfaultfds stay open until nobody of the container is left: threads that wait for a page must
be killed while they wait, since a page that nobody serves reads as zeros. Needs root.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.log import get_logger

log = get_logger(__name__)

FAILURE_FILE = "page-failure.json"
CRIU_ENDED = "CRIU ended before every process was restored"
"""A failure that says nothing of its own: CRIU's log has the reason."""
_SAY_EACH_S = 20.0
_OFTEN_S, _SELDOM_S = 0.005, 0.5


def failure_of(work_dir: Path) -> str | None:
    """Return why the session in ``work_dir`` was condemned, or None."""
    try:
        reason: str = json.loads((work_dir / FAILURE_FILE).read_bytes())["reason"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return reason


def record_failure(work_dir: Path, reason: str) -> None:
    """Write the reason, whole or not at all; the first one stays."""
    target = work_dir / FAILURE_FILE
    staged = work_dir / f".{FAILURE_FILE}.{os.getpid()}"
    with suppress(OSError):  # a full disk must not keep us from killing
        staged.write_text(json.dumps({"version": 1, "reason": reason}))
        with suppress(FileExistsError):
            os.link(staged, target)
        staged.unlink()


@dataclass(frozen=True, slots=True)
class Victims:
    """Whom a session may kill: every process in the groups, and the one in the pid file."""

    cgroup_procs: tuple[str, ...]
    pid_file: str

    def kill_all(self, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Kill until nobody is left; False if ``give_up`` said so before.

        A process in an uninterruptible wait outlives SIGKILL. It is looked at for as long as it is
        there, and the log says each 20 s who stays.
        """
        said_s, pause_s = time.monotonic(), _OFTEN_S
        while alive := self.alive():
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if give_up():
                return False
            if time.monotonic() - said_s > _SAY_EACH_S:
                log.error("condemned_processes_stay", pids=sorted(alive))
                said_s, pause_s = time.monotonic(), _SELDOM_S
            time.sleep(pause_s)
        if pause_s == _SELDOM_S:
            log.info("condemned_processes_gone", pid_file=self.pid_file)
        return True

    def alive(self) -> set[int]:
        """Return the processes that run; a zombie runs no more."""
        pids: set[int] = set()
        for path in self.cgroup_procs:
            with suppress(OSError, ValueError):
                pids.update(map(int, Path(path).read_text().split()))
        with suppress(OSError, ValueError):
            if self.pid_file:
                pids.add(int(Path(self.pid_file).read_text()))
        return {pid for pid in pids if _runs(pid)}


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :][:1] not in (b"Z", b"X")
