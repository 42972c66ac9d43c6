"""Processes named so that a reused number is never mistaken for them.

A pid may be reused as soon as its process is reaped; a pidfd and the pair (pid, start time) may
not. The start time is field 22 of /proc/PID/stat in clock ticks since boot (proc(5)). A zombie
counts as ended: it runs no code and holds no file, whenever its parent gets round to reaping it.

On disk the pair is no name by itself: after a reboot somebody else may have both. So a file says
``PID START_TICKS BOOT_ID`` (``remember``, ``recall``).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for all time (of one boot). ``start_ticks`` is proc(5)'s starttime."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return who has this number now, or None if nobody (or only a zombie) does."""
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            return None
        return cls(pid, int(stat[1]))

    @property
    def alive(self) -> bool:
        """Whether the process still runs; a zombie does not."""
        return ProcessIdentity.of(self.pid) == self


def remember(process: ProcessIdentity | None, path: Path) -> None:
    """Write down who a process is, whole or not at all; None: it has ended already."""
    pid, start_ticks = (process.pid, process.start_ticks) if process is not None else (0, 0)
    staged = path.with_name(f".{path.name}.staged")
    staged.write_text(f"{pid} {start_ticks} {_boot_id()}\n")
    staged.replace(path)


def recall(path: Path) -> ProcessIdentity | None:
    """Return who was written down in this boot, whether it still runs or not; None if nobody."""
    written = _written(path)
    if written is None or written[2] != _boot_id() or not written[0]:
        return None
    return ProcessIdentity(*written[:2])


def of_this_boot(path: Path) -> bool:
    """Tell whether ``remember`` wrote the file, whole, since the machine was started."""
    written = _written(path)
    return written is not None and written[2] == _boot_id()


def _written(path: Path) -> tuple[int, int, str] | None:
    """Read the file; None if it is not there, or the power went while it was written."""
    try:
        pid, start_ticks, boot_id = path.read_text().split()
        return int(pid), int(start_ticks), boot_id
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


@cache
def _boot_id() -> str:
    """Return what names this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, str] | None:
    """Return state and start time."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold spaces and parentheses itself.
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), fields[19].decode()


@contextmanager
def opened(process: ProcessIdentity) -> Iterator[int | None]:
    """Give a pidfd of ``process``, or None if it has ended; closed at the end of the block."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Checked after opening: from here on the descriptor cannot come to mean another process.
        yield fd if process.alive else None
    finally:
        os.close(fd)


def send_signal(process: ProcessIdentity, number: int) -> bool:
    """Send a signal; returns False if the process has ended. Needs the right to signal it."""
    with opened(process) as fd:
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        return True


def wait(process: ProcessIdentity, timeout_s: float | None = None) -> bool:
    """Block until the process has ended; returns False if it still runs after ``timeout_s``."""
    with opened(process) as fd:
        return fd is None or wait_fd(fd, timeout_s)


def wait_fd(fd: int, timeout_s: float | None = None) -> bool:
    """Block until the process of a pidfd has ended; returns False on time-out.

    A pidfd becomes readable when its process ends, zombie or not (pidfd_open(2)).
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1e3))
