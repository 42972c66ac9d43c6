"""Where one container keeps its things: ROOT/containers/NAME/.

    container.json   the record (containers.py)      log, log.1 ...   what it wrote (logs.py)
    bundle/          config.json; conmon's fifos     exit/            exit status, by conmon
    rootfs/          the overlay's mount point       runc/            runc's state
    upper/ work/     the writable layer              criu/            CRIU's scratch and logs
    dev/ shm/        tmpfs, bound at /dev and /dev/shm
    conmon.pid  container.pid                        conmon.log       the monitor's own words
    conmon.process  container.process                who they are (kernel/pidfd.py)

The directory is a plain value: it opens nothing. Its owner is the container's record; it is
removed when the name is used again or the container is removed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.kernel.mounts import mounts_below, unmount
from hotstart.kernel.pidfd import ProcessIdentity, recall
from runtime.container_spec import check_name


class StillMounted(HotstartError):
    """Something is still mounted below a container's directory, so it is not deleted."""


@dataclass(frozen=True, slots=True)
class ContainerDirectory:
    """The paths of one container below ``path``."""

    path: Path

    @classmethod
    def of(cls, root: Path, name: str) -> ContainerDirectory:
        """Return the directory of the container ``name`` of the agent at ``root``."""
        return cls(root / "containers" / check_name(name))

    @property
    def name(self) -> str:
        """The container's name."""
        return self.path.name

    @property
    def bundle(self) -> Path:
        """What runc calls the bundle."""
        return self.path / "bundle"

    @property
    def config(self) -> Path:
        """The bundle's config.json."""
        return self.bundle / "config.json"

    @property
    def rootfs(self) -> Path:
        """Mount point of the container's root file system."""
        return self.path / "rootfs"

    @property
    def upper(self) -> Path:
        """The writable layer."""
        return self.path / "upper"

    @property
    def work(self) -> Path:
        """overlayfs' own scratch, beside ``upper``."""
        return self.path / "work"

    @property
    def dev(self) -> Path:
        """The tmpfs that is the container's /dev."""
        return self.path / "dev"

    @property
    def shm(self) -> Path:
        """The tmpfs that is the container's /dev/shm."""
        return self.path / "shm"

    @property
    def log(self) -> Path:
        """The newest piece of the log."""
        return self.path / "log"

    @property
    def exits(self) -> Path:
        """Where conmon leaves the exit status, in a file with the container's name."""
        return self.path / "exit"

    @property
    def exit_file(self) -> Path:
        """The exit status in decimal; absent while the container runs."""
        return self.exits / self.name

    @property
    def runc_root(self) -> Path:
        """State directory of runc, this container's alone."""
        return self.path / "runc"

    @property
    def criu(self) -> Path:
        """Scratch and logs of CRIU."""
        return self.path / "criu"

    @property
    def monitor_pid_file(self) -> Path:
        """Written by conmon: its own pid. A bare number: see ``monitor_process_file``."""
        return self.path / "conmon.pid"

    @property
    def monitor_process_file(self) -> Path:
        """Who the monitor is."""
        return self.path / "conmon.process"

    @property
    def pid_file(self) -> Path:
        """Written by runc or CRIU: the pid of the container's first process.

        A bare number, which is somebody else's after a reboot: see ``process_file``.
        """
        return self.path / "container.pid"

    @property
    def process_file(self) -> Path:
        """Who the container's first process is; there from the moment that it has been started."""
        return self.path / "container.process"

    @property
    def monitor_log(self) -> Path:
        """What conmon itself had to say."""
        return self.path / "conmon.log"

    @property
    def record(self) -> Path:
        """The container's record."""
        return self.path / "container.json"

    def create(self) -> None:
        """Make the directory and everything in it. Raises FileExistsError if the name is taken.

        The host's users cannot enter it: a set-user-id program of a container is no way to root.
        """
        self.path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        private = (self.bundle, self.work, self.exits, self.runc_root, self.criu)
        for directory in private:
            directory.mkdir(mode=0o700)
        for directory in (self.rootfs, self.upper, self.dev, self.shm):
            directory.mkdir(mode=0o755)

    def unmount_all(self) -> None:
        """Unmount whatever is mounted below, deepest first."""
        for entry in mounts_below(self.path):
            unmount(entry.target, detach=True)

    def remove(self) -> None:
        """Delete the directory; never reaches into anything mounted. Idempotent."""
        if not self.path.exists():
            return
        self.unmount_all()
        left = mounts_below(self.path)
        if left:
            raise StillMounted(f"{left[0].target} is still mounted; container files are kept")
        shutil.rmtree(self.path)


def running_process(directory: ContainerDirectory) -> ProcessIdentity | None:
    """Return the container's first process, or None if it has ended."""
    process = recall(directory.process_file)
    return process if process is not None and process.alive else None
