"""Mount EROFS images whose file data lies in device files, and set how far the kernel reads ahead.

The bootstrap and the devices are regular files on a local disk file system (kernel >= 6.12); the
mount is made by mount(2), since a loop device would bypass fanotify's hooks. On older kernels, and
only above FUSE, which fails closed, each file lies behind a loop device instead. Read-ahead belongs
to the mount's bdi and is taken over by a file when it is opened, so it is set right after mounting.

The bdi of a file-backed mount is named erofs-<n> (n: a counter of the kernel, super_setup_bdi in
fs/super.c) and nothing links it to the mount. It is found by comparing /sys/class/bdi before and
after under an advisory lock on that directory, which every agent on the host takes. Should another
program mount an EROFS image in that instant, both mounts get the value: slower or faster, never
wrong.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Unsupported, UserError
from hotstart.kernel.loop import attach
from hotstart.kernel.mounts import MS_NODEV, MS_NOSUID, MS_RDONLY, mount

_BDI = Path("/sys/class/bdi")


@dataclass(frozen=True, slots=True)
class ErofsMount:
    """A mount that the caller owns; ``bdis`` are the names in /sys/class/bdi that came with it."""

    target: Path
    bdis: tuple[str, ...]


def mount_erofs(
    bootstrap: Path,
    target: Path,
    devices: Sequence[Path] = (),
    *,
    directio: bool = False,
    nosuid: bool = False,
    nodev: bool = False,
    may_loop: bool = False,
) -> ErofsMount:
    """Mount ``bootstrap`` read-only at ``target``, its devices in table order.

    Every device must carry its fanotify mark already. ``may_loop`` allows loop devices where the
    kernel can't mount from files, and is right only for devices that fail closed (FUSE).
    Raises Unsupported where the kernel or the file system beneath can't back EROFS by files,
    UserError for paths mount(2) can't carry.
    """
    flags = MS_RDONLY | (MS_NOSUID if nosuid else 0) | (MS_NODEV if nodev else 0)
    options = ",".join([*(["directio"] if directio else []), *map(_device_option, devices)])
    with _bdi_lock():
        before = set(_erofs_bdis())
        try:
            mount(os.fspath(bootstrap), target, "erofs", flags, options)
        except OSError as err:
            if err.errno == errno.ENOTBLK and may_loop:
                return ErofsMount(target, _mount_on_loops(bootstrap, target, devices, flags))
            if err.errno in (errno.ENOTBLK, errno.ENODEV):
                raise Unsupported(
                    f"{bootstrap}: EROFS can't be mounted from a file here (needs kernel 6.12 with "
                    "EROFS, and a cache on ext4, xfs or btrfs)"
                ) from err
            raise
        return ErofsMount(target, tuple(sorted(set(_erofs_bdis()) - before)))


def _mount_on_loops(
    bootstrap: Path, target: Path, devices: Sequence[Path], flags: int
) -> tuple[str, ...]:
    """Mount with every file behind a loop device that goes with the mount; return their bdis.

    A mount of a block device has no bdi of its own: it uses the bootstrap's loop device's.
    """
    with ExitStack() as opened:
        loops = []
        for path in (bootstrap, *devices):
            device, fd = attach(path)
            opened.callback(os.close, fd)
            loops.append(device)
        mount(os.fspath(loops[0]), target, "erofs", flags, ",".join(map(_device_option, loops[1:])))
        return tuple(_block_bdi(loop) for loop in loops)


def _block_bdi(device: Path) -> str:
    number = os.stat(device).st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def _device_option(path: Path) -> str:
    text = os.fspath(path)
    if "," in text or "\\" in text:
        raise UserError(f"{text}: a comma or backslash in a device path", "use another root")
    return f"device={text}"


def set_read_ahead(mounted: ErofsMount, kib: int) -> None:
    """Set how far reads of files opened from now on run ahead (0: exact 4 KiB pages)."""
    for name in mounted.bdis:
        try:
            (_BDI / name / "read_ahead_kb").write_text(str(kib))
        except FileNotFoundError:
            continue  # a foreign mount of the same instant that has gone again


@contextmanager
def _bdi_lock() -> Iterator[None]:
    lock = os.open(_BDI, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _erofs_bdis() -> list[str]:
    return [name for name in os.listdir(_BDI) if name.startswith("erofs")]
