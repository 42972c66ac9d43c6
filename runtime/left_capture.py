"""What a capture leaves when its agent is killed: a frozen container, and containers on trial.

Only the capture itself thaws what it froze (capture.py). If its agent is killed meanwhile, the
container would stay as it is for good. What that agent started may still be at it: runc goes on
without it, and CRIU freezes a paused container again when its dump is done. So the container is
thawed once they have ended. Rehearsals and proofs are containers that nobody else knows. Needs
root.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.kernel.cgroup import Group
from hotstart.kernel.pidfd import ProcessIdentity
from hotstart.kernel.pidfd import wait as wait_process
from runtime.container_directory import ContainerDirectory
from runtime.containers import tear_down
from runtime.runc import Programs, Runc

log = get_logger(__name__)

_FREEZING = {b"pause", b"checkpoint"}


def undo_capture(directory: ContainerDirectory, group: Group) -> None:
    """Have the container go on: now, or (in a thread) as soon as nobody dumps it any more.

    For a container that was just taken up, before anybody can capture it again. Raises OSError.
    """
    at_it = _still_at_it(directory)
    if not at_it:
        _thaw(directory, group)
        return
    log.warning("capture_without_agent", container=directory.name, processes=len(at_it))
    threading.Thread(
        target=_thaw_after,
        args=(at_it, directory, group),
        name=f"thaw-{directory.name}",
        daemon=True,
    ).start()


def end_trials(scratch: Path, programs: Programs, parent: Group) -> None:
    """End the rehearsals and proofs of an agent that is gone: nobody waits for what they show.

    ``scratch`` is where captures have their containers; what can't be ended is logged.
    """
    for path in (*scratch.glob("rehearsal-*"), *scratch.glob("proof-*")):
        directory = ContainerDirectory(path)
        try:
            tear_down(directory, Runc(programs, directory), parent.child(path.name))
            directory.remove()
        except (HotstartError, OSError) as err:
            log.warning("trial_not_ended", container=path.name, reason=err)


def _thaw_after(at_it: list[ProcessIdentity], directory: ContainerDirectory, group: Group) -> None:
    try:
        for process in at_it:
            wait_process(process)
        _thaw(directory, group)
    except (HotstartError, OSError) as err:
        log.error("container_stays_frozen", container=directory.name, reason=err)  # noqa: TRY400  # one line


def _thaw(directory: ContainerDirectory, group: Group) -> None:
    if group.frozen():
        group.thaw()
        log.warning("container_thawed", container=directory.name, reason="its capture was cut off")


def _still_at_it(directory: ContainerDirectory) -> list[ProcessIdentity]:
    """Return the runcs of this container that freeze it: each has a state directory of its own."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if os.fsencode(directory.runc_root) in words and _FREEZING.intersection(words):
            process = ProcessIdentity.of(int(pid))
            if process is not None:
                found.append(process)
    return found
