"""/dev and /dev/shm of one container: tmpfs directories of ours that the container gets bound.

CRIU takes bind mounts as external and leaves their content alone, so a restore makes both anew
here, before it starts (device numbers: Documentation/admin-guide/devices.txt). Files that a
program keeps in /dev/shm lie in ``shm``; capture copies them. Needs root; whoever mounts unmounts.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hotstart.kernel.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, tmpfs, unmount_if_mounted

# (name, major, minor)
_NODES = (
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
)
_LINKS = (
    ("core", "/proc/kcore"),
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
)
_DEV_BYTES = 1 << 20
_SHM_BYTES = 1 << 30
"""Half of this or more is what training and serving frameworks ask of /dev/shm; it is only used
as it is written to, and counts against the container's memory limit."""


def mount_dev_shm(dev: Path, shm: Path, *, shm_bytes: int = _SHM_BYTES) -> None:
    """Mount and fill both directories; on failure neither stays mounted."""
    try:
        tmpfs(dev, mode=0o755, size_bytes=_DEV_BYTES, flags=MS_NOSUID | MS_NOEXEC)
        _fill(dev)
        tmpfs(shm, mode=0o1777, size_bytes=shm_bytes, flags=MS_NOSUID | MS_NODEV)
    except BaseException:
        unmount_dev_shm(dev, shm)
        raise


def unmount_dev_shm(dev: Path, shm: Path) -> None:
    """Unmount both; what was in them is gone. Idempotent."""
    for directory in (shm, dev):
        unmount_if_mounted(directory, detach=True)


def _fill(dev: Path) -> None:
    for name, major, minor in _NODES:
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(dev / name, 0o666)  # noqa: S103 - mknod obeys the umask; devices are for everybody
    for name, target in _LINKS:
        (dev / name).symlink_to(target)
    for name in ("pts", "shm"):
        (dev / name).mkdir(mode=0o755)
