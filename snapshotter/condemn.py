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
from hotstart.kernel.pidfd import ProcessIdentity, recall, send_signal

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
    """Whom a session may kill: every process in the groups, and the one in the process file."""

    cgroup_procs: tuple[str, ...]
    process_file: str

    def kill_all(self, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Kill until nobody is left; False if ``give_up`` said so before.

        A process in an uninterruptible wait outlives SIGKILL. It is looked at for as long as it is
        there, and the log says each 20 s who stays.
        """
        said_s, pause_s = time.monotonic(), _OFTEN_S
        while alive := self.alive():
            for process in alive:
                send_signal(process, signal.SIGKILL)
            if give_up():
                return False
            if time.monotonic() - said_s > _SAY_EACH_S:
                log.error("condemned_processes_stay", pids=sorted(one.pid for one in alive))
                said_s, pause_s = time.monotonic(), _SELDOM_S
            time.sleep(pause_s)
        if pause_s == _SELDOM_S:
            log.info("condemned_processes_gone", process_file=self.process_file)
        return True

    def alive(self) -> set[ProcessIdentity]:
        """Return the processes that run; a zombie runs no more."""
        pids: set[int] = set()
        for path in self.cgroup_procs:
            with suppress(OSError, ValueError):
                pids.update(map(int, Path(path).read_text().split()))
        found = {process for pid in pids if (process := ProcessIdentity.of(pid)) is not None}
        named = recall(Path(self.process_file)) if self.process_file else None
        if named is not None and named.alive:
            found.add(named)
        return found
