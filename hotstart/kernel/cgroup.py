"""Control groups of version 1, of version 2, and of both at once (hybrid).

Facts: cgroups(7), Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst. A ``Group`` is a path
like ``/hotstart-1a2b/web`` below the root of *every* hierarchy that this host mounts, so one name
means the same everywhere. Version 2 lets a group hold either processes or groups with
controllers, never both: the parent of containers holds no process. Needs root.

Groups of containers are limited by the OCI runtime, or by cgroup_limits.py where a restore goes
around it; here they are named, made, counted, joined, killed and removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Unsupported
from hotstart.kernel.mounts import mount_table
from hotstart.kernel.pidfd import ProcessIdentity, send_signal

# fmt: off
_V1_KNOWN = frozenset((
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc",
    "name=systemd", "net_cls", "net_prio", "perf_event", "pids", "rdma",
))
# fmt: on
_REMOVE_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where control groups are mounted: ``v1`` by controller (co-mounted ones share a path)."""

    v1: dict[str, Path]
    v2: Path | None

    @property
    def mode(self) -> str:
        """``v1``, ``v2``, ``hybrid`` or ``none``."""
        if self.v1:
            return "hybrid" if self.v2 else "v1"
        return "v2" if self.v2 else "none"

    @property
    def roots(self) -> list[Path]:
        """The root of each hierarchy, each once."""
        unique = dict.fromkeys(self.v1.values())
        return [*unique, *([self.v2] if self.v2 else [])]

    def of_controller(self, name: str) -> Path | None:
        """Return the root of the hierarchy that has this controller, or None."""
        if name in self.v1:
            return self.v1[name]
        if self.v2 is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            if name in (self.v2 / "cgroup.controllers").read_text().split():
                return self.v2
        return None


def hierarchies() -> Hierarchies:
    """Read the mount table; mounts outside /sys/fs/cgroup are somebody else's business."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for entry in mount_table():
        if not entry.target.startswith("/sys/fs/cgroup"):
            continue
        if entry.fstype == "cgroup2":
            v2 = Path(entry.target)
        elif entry.fstype == "cgroup":
            for name in _V1_KNOWN.intersection(entry.options.split(",")):
                v1[name] = Path(entry.target)
    return Hierarchies(v1, v2)


@dataclass(frozen=True, slots=True)
class Group:
    """One group, by its absolute ``path`` below every hierarchy's root; need not exist yet."""

    path: str
    hosts: Hierarchies

    @classmethod
    def named(cls, path: str) -> Group:
        """Return the group of this host. Raises Unsupported without any cgroup file system."""
        hosts = hierarchies()
        if hosts.mode == "none":
            raise Unsupported("no cgroup file system is mounted below /sys/fs/cgroup")
        return cls("/" + path.strip("/"), hosts)

    def child(self, name: str) -> Group:
        """Return the group ``name`` in this one."""
        return Group(f"{self.path}/{name}", self.hosts)

    def directories(self) -> list[Path]:
        """The group's directory in each hierarchy, whether it exists or not."""
        return [root / self.path.lstrip("/") for root in self.hosts.roots]

    def create(self) -> None:
        """Make the group in every hierarchy; idempotent."""
        for root, directory in zip(self.hosts.roots, self.directories(), strict=True):
            directory.mkdir(parents=True, exist_ok=True)
            if root == self.hosts.v1.get("cpuset"):
                _inherit_cpuset(root, directory)

    def attach(self, pid: int) -> None:
        """Move a process, all its threads included, into the group in every hierarchy."""
        for directory in self.directories():
            (directory / "cgroup.procs").write_text(f"{pid}\n")

    def processes(self) -> set[int]:
        """Return the processes in the group itself, in any hierarchy."""
        lists = [_read(directory / "cgroup.procs") for directory in self.directories()]
        return {int(pid) for text in lists for pid in text.split()}

    def memory_bytes(self) -> int | None:
        """Return the memory charged to the group now (page cache included), or None."""
        text = self._of_memory("memory.current", "memory.usage_in_bytes")
        return int(text) if text else None

    def memory_kills(self) -> int:
        """Return how many processes the kernel has killed in the group for want of memory."""
        for line in self._of_memory("memory.events", "memory.oom_control").splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill":
                return int(count)
        return 0

    def _of_memory(self, v2_name: str, v1_name: str) -> str:
        root = self.hosts.of_controller("memory")
        if root is None:
            return ""
        name = v2_name if root == self.hosts.v2 else v1_name
        return _read(root / self.path.lstrip("/") / name)

    def kill(self) -> int:
        """Send SIGKILL to every process in the group; returns how many there were.

        The oldest goes first: it is the first of its pid namespace, and takes all others along
        before they could see each other die. Whoever is born meanwhile goes too. Frozen ones end
        as well: in version 1 they would wait to be thawed.
        """
        killed: set[int] = set()
        while pids := self.processes() - killed:
            alive = [process for pid in pids if (process := ProcessIdentity.of(pid)) is not None]
            for process in sorted(alive, key=lambda process: process.start_ticks):
                send_signal(process, signal.SIGKILL)
            killed |= pids
        self.thaw()
        return len(killed)

    def frozen(self) -> bool:
        """Tell whether somebody has frozen the group, or is about to; False if it is gone."""
        file, thawed = self._freezer()
        return _read(file).strip() not in ("", thawed)

    def thaw(self) -> None:
        """Let the group's processes go on. Idempotent."""
        _write_unless_gone(*self._freezer())

    def _freezer(self) -> tuple[Path, str]:
        """Return the file that freezes the group, and what it says of one that isn't frozen."""
        root, name, thawed = self.hosts.v1.get("freezer"), "freezer.state", "THAWED"
        if root is None:
            root, name, thawed = self.hosts.v2 or self.hosts.roots[0], "cgroup.freeze", "0"
        return root / self.path.lstrip("/") / name, thawed

    def remove(self) -> bool:
        """Remove the group and the empty groups below it; returns whether nothing is left.

        A group stays busy for a moment after its last process has ended.
        """
        deadline = time.monotonic() + _REMOVE_WAIT_S
        while sum(not _remove_tree(directory) for directory in self.directories()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def _read(path: Path) -> str:
    """Return a file of a group; empty if the group is gone, or goes while it is read (ENODEV)."""
    try:
        return path.read_text()
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return ""


def _write_unless_gone(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _inherit_cpuset(root: Path, directory: Path) -> None:
    """Fill in cpus and mems on the way down: version 1 leaves both empty, which admits nobody."""
    step = root
    for part in directory.relative_to(root).parts:
        parent, step = step, step / part
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (step / name).read_text().strip():
                (step / name).write_text((parent / name).read_text())


def _remove_tree(directory: Path) -> bool:
    """Remove a group bottom-up; False while something in it is busy."""
    try:
        below = [entry.path for entry in os.scandir(directory) if entry.is_dir()]
    except FileNotFoundError:
        return True
    busy = sum(not _remove_tree(Path(path)) for path in below)
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as err:
        if err.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return not busy
