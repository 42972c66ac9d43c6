"""What a test may not leave behind: processes, mounts (kept namespaces among them), loop devices.

Only what is ours counts: descendants of this process (conftest makes it a child subreaper, so
that orphans come back to it), and what lies below the session's base directory. Processes of
fixtures that outlive a test are there before it starts, or are named in ``expected``.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hotstart.kernel.libc import check, libc
from hotstart.kernel.mounts import mount_table, unmount

PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>
LO_CLR_FD = 0x4C01  # <linux/loop.h>
_PATIENCE_S = 5.0


def become_subreaper() -> None:
    """Make orphaned descendants our children, so that they are found."""
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass
class Watch:
    """Compares what is there with what was there when it was made.

    ``expected`` may grow while it watches: the processes of fixtures of the whole session.
    """

    base: Path
    expected: set[int]
    everything: bool = True
    """Processes too: they have no directory by which a test could be told from its fixtures."""
    mounts: set[str] = field(init=False)
    processes: set[int] = field(init=False)
    loops: set[str] = field(init=False)

    def __post_init__(self):
        self.mounts = set(_mounts(self.base))
        self.processes = set(_descendants())
        self.loops = set(_loops(self.base))

    def leftovers(self) -> list[str]:
        """Return what is left once ending things had time to end."""
        deadline = time.monotonic() + _PATIENCE_S
        while (found := self._found()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def _found(self) -> list[str]:
        processes = {}
        if self.everything:
            _reap_orphans(self.processes | self.expected)
            processes = _descendants()
        strange = [pid for pid in processes if pid not in self.processes | self.expected]
        return [
            *(f"process {pid} ({processes[pid]})" for pid in strange),
            *(f"mount {target}" for target in _mounts(self.base) if target not in self.mounts),
            *(f"loop device {loop}" for loop in _loops(self.base) if loop not in self.loops),
        ]

    def clean(self) -> None:
        """Remove what is left, so that the next test starts as this one did."""
        strange = set(_descendants()) - self.processes - self.expected
        for pid in strange if self.everything else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for target in reversed(_mounts(self.base)):
            if target not in self.mounts:
                with contextlib.suppress(OSError):
                    unmount(target, detach=True)
        for loop in set(_loops(self.base)) - self.loops:
            detach_loop(Path("/dev") / loop)


def detach_loop(device: Path) -> None:
    """Take the file away from a loop device; it goes when nothing uses it any more."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.ioctl(fd, LO_CLR_FD, None)
    finally:
        os.close(fd)


def _descendants() -> dict[int, str]:
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())[:200] or process.name()
            # Python's own helper stays as long as the process that has used multiprocessing.
            if "multiprocessing.resource_tracker" not in words:
                found[process.pid] = words
    return found


def _reap_orphans(known: set[int]) -> None:
    """Collect zombies that no one in this process will wait for any more."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if process.pid not in known and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def _mounts(base: Path) -> list[str]:
    return [entry.target for entry in mount_table() if entry.target.startswith(f"{base}/")]


def _loops(base: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(f"{base}/"):
                found.append(backing.parts[3])
    return found
