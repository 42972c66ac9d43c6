"""The life of a container: created, running, ended; and how it is ended.

Nothing here remembers anything: what is true is in the container's directory (pid, exit status,
log), in runc and in the kernel, so an agent that was restarted sees the same. A status is the
exit status, or 128 + n after signal n; why it ended is said where that isn't plain. Needs root.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hotstart.core.errors import HotstartError, UserError
from hotstart.core.log import get_logger
from hotstart.kernel.cgroup import Group
from hotstart.kernel.pidfd import ProcessIdentity, of_this_boot, recall, remember, send_signal
from hotstart.kernel.pidfd import wait as wait_process
from runtime.container_directory import ContainerDirectory, running_process
from runtime.runc import Runc

log = get_logger(__name__)

State = Literal["created", "running", "stopped"]

OUT_OF_MEMORY = "out of memory: it reached its memory limit"

LOST_STATUS = 255
"""What stands for the exit status of a container whose monitor was killed."""

DEFAULT_GRACE_S = 10.0
_EXIT_FILE_S = 5.0
_KILL_S = 30.0
_STEP_S = 0.2
_SIGNAL = re.compile(r"(?:SIG)?(?P<base>\d+|[A-Z][A-Z0-9]*)(?P<offset>[+-]\d+)?", re.ASCII)


class ContainerStuck(HotstartError):
    """The container's processes did not end, even by SIGKILL."""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """Where a container stands. ``exit_status`` and ``finished_ns`` only when stopped."""

    state: State
    pid: int = 0
    exit_status: int | None = None
    reason: str = ""
    finished_ns: int = 0


def status(directory: ContainerDirectory) -> ContainerStatus:
    """Return the container's status, from its directory and the kernel alone."""
    ended = _exit_of(directory)
    if ended is not None:
        return ended
    process = running_process(directory)
    if process is not None:
        return ContainerStatus("running", process.pid)
    if not directory.process_file.exists():
        return ContainerStatus("created")
    # It has ended, and the monitor has not said how yet: that takes milliseconds, or for ever.
    return _await_exit(directory)


def recognise(directory: ContainerDirectory, group: Group) -> None:
    """Find out who is a container that has been started, where that is not written down.

    An older version wrote nothing but numbers; or the power went before the file was on disk. The
    number counts only while its process is in the container's control group: nobody else ever is,
    and after a reboot nobody is.
    """
    if directory.process_file.exists():
        return
    pid, monitor = _number(directory.pid_file), _number(directory.monitor_pid_file)
    process = ProcessIdentity.of(pid) if pid in group.processes() else None
    if process is not None:
        # Nothing is ever sent to the monitor: whoever has its number, at worst we wait a little.
        remember(ProcessIdentity.of(monitor), directory.monitor_process_file)
        remember(process, directory.process_file)
    else:
        directory.process_file.touch()


def _number(pid_file: Path) -> int:
    try:
        return int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def wait(
    directory: ContainerDirectory, alive: Callable[[], bool] = lambda: True
) -> ContainerStatus:
    """Block until the container has ended, or until ``alive`` says that nobody waits any more."""
    while alive():
        now = status(directory)
        if now.state == "stopped":
            return now
        process = running_process(directory)
        if process is not None:
            wait_process(process, _STEP_S)
        else:
            time.sleep(0.01)
    return status(directory)


def stop(
    directory: ContainerDirectory,
    group: Group,
    *,
    stop_signal: str = "SIGTERM",
    grace_s: float = DEFAULT_GRACE_S,
) -> ContainerStatus:
    """End the container: its stop signal, after ``grace_s`` SIGKILL. Returns when it has ended.

    A process that can't take the signal gets no grace: nothing would come of it. Idempotent.
    Raises ContainerStuck if the kernel can't end it.
    """
    now = status(directory)
    if now.state == "stopped":
        return now
    number = _signal_to_ask_with(directory, stop_signal)
    if takes_signal(now.pid, number):
        process = running_process(directory)
        if process is not None:
            send_signal(process, number)
        now = _wait_until(directory, grace_s)
        if now.state == "stopped":
            return now
    log.info("container_killed", container=directory.name, grace_s=grace_s)
    group.kill()
    now = _wait_until(directory, _KILL_S)
    if now.state != "stopped":
        raise ContainerStuck(
            f"{directory.name}: process {now.pid} does not end, even by SIGKILL; it waits for a"
            " device or a file system that does not answer"
        )
    return now


def _signal_to_ask_with(directory: ContainerDirectory, stop_signal: str) -> int:
    """Return the stop signal; SIGTERM for one that is none: whatever runs can be ended."""
    try:
        return signal_number(stop_signal)
    except UserError as err:
        log.warning("stop_signal_unknown", container=directory.name, reason=err, instead="SIGTERM")
        return int(signal.SIGTERM)


def tear_down(directory: ContainerDirectory, runc: Runc, group: Group) -> None:
    """Remove what an ended container leaves in the kernel: runc's state, mounts, control group.

    Kills what still runs. The directory's files (log, exit status) stay. Idempotent.
    """
    try:
        end_processes(runc, group)
    finally:
        directory.unmount_all()


def end_processes(runc: Runc, group: Group) -> None:
    """Kill whatever runs of a container; remove runc's state and the control group. Idempotent."""
    try:
        runc.delete(force=True)
    finally:
        for one in (group, stand_in_of(group)):
            end_group(one)


def end_group(group: Group) -> None:
    """Kill what is in a control group and remove it. Idempotent; what stays is logged."""
    for _ in range(2):
        group.kill()
        if group.remove():
            return
    log.warning("control_group_stays", group=group.path, processes=sorted(group.processes()))


def stand_in_of(group: Group) -> Group:
    """Return the group of a container's stand-in (adoption.py): no container has such a name."""
    return Group(f"{group.path}+stand-in", group.hosts)


def takes_signal(pid: int, number: int) -> bool:
    """Tell whether the first process of a container does anything with a signal.

    The kernel drops signals to the first process of a pid namespace that it neither handles nor
    blocks (to wait for them), except SIGKILL from outside (pid_namespaces(7)).
    """
    if number == signal.SIGKILL:
        return True
    bit = 1 << (number - 1)
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        masks = [_signal_masks(thread / "status") for thread in threads]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(mask & bit for mask in masks)


def _signal_masks(path: Path) -> int:
    """Return the signals that a thread catches or blocks."""
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return int(lines["SigCgt"], 16) | int(lines["SigBlk"], 16)


def signal_number(text: str) -> int:
    """Read ``SIGTERM``, ``term``, ``15``, ``SIGRTMIN+3`` or ``SIGRTMAX-2``. Raises UserError."""
    read = _SIGNAL.fullmatch(text.strip().upper())
    with contextlib.suppress(KeyError, ValueError):
        if read is not None:
            base, offset = read["base"], int(read["offset"] or 0)
            number = int(base) if base.isdigit() else int(signal.Signals[f"SIG{base}"])
            if 1 <= number + offset <= int(signal.SIGRTMAX):
                return number + offset
    raise UserError(f"not a signal: {text[:40]!r}", "write a name like SIGTERM or a number")


def out_of_memory(group: Group) -> bool:
    """Tell whether the kernel has killed something in the group for want of memory.

    Ask before ``tear_down``: the count goes with the group.
    """
    return group.memory_kills() > 0


def _exit_of(directory: ContainerDirectory) -> ContainerStatus | None:
    try:
        number = int(directory.exit_file.read_text())
        finished_ns = directory.exit_file.stat().st_mtime_ns
    except (FileNotFoundError, ValueError):
        return None
    return ContainerStatus("stopped", 0, number, "", finished_ns)


def _await_exit(directory: ContainerDirectory) -> ContainerStatus:
    deadline = time.monotonic() + _EXIT_FILE_S
    while time.monotonic() < deadline:
        ended = _exit_of(directory)
        if ended is not None:
            return ended
        if not _monitor_alive(directory):
            break
        time.sleep(0.002)
    return _exit_of(directory) or ContainerStatus("stopped", 0, LOST_STATUS, _why_lost(directory))


def _why_lost(directory: ContainerDirectory) -> str:
    if of_this_boot(directory.process_file):
        return "its monitor was killed, so the exit status is not known"
    return "the machine was started anew while it ran, so the exit status is not known"


def _monitor_alive(directory: ContainerDirectory) -> bool:
    monitor = recall(directory.monitor_process_file)
    return monitor is not None and monitor.alive


def _wait_until(directory: ContainerDirectory, timeout_s: float) -> ContainerStatus:
    deadline = time.monotonic() + timeout_s
    process = running_process(directory)
    if process is not None:
        wait_process(process, timeout_s)
    return wait(directory, lambda: time.monotonic() < deadline)
