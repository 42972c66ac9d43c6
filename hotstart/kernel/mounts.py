"""mount(2), umount2(2) and the mount table; never the ``mount`` program.

The program makes a loop device of a regular file, and loop devices bypass fanotify's pre-content
hooks. Needs CAP_SYS_ADMIN in the mount namespace of the caller. Facts: mount(2), and
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import UserError
from hotstart.kernel.libc import check, libc

# <sys/mount.h>
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

_PAGE_OF_OPTIONS = 4095
"""mount(2) takes one page of options, its final NUL included."""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo. ``device`` is major:minor as the kernel prints it."""

    target: str
    fstype: str
    source: str
    options: str
    device: str
    root: str


def mount(source: str, target: str | Path, fstype: str, flags: int = 0, options: str = "") -> None:
    """Mount; the caller owns the mount and must unmount it. Raises OSError with the target."""
    encoded = os.fsencode(options)
    if len(encoded) > _PAGE_OF_OPTIONS:
        raise UserError(
            f"{target}: mount options take {len(encoded)} bytes, the kernel allows 4095",
            "use shorter paths or fewer layers",
        )
    result = libc.mount(
        os.fsencode(source), os.fsencode(target), fstype.encode(), flags, encoded or None
    )
    check(result, f"mount {fstype}", target)


def unmount(target: str | Path, *, detach: bool = False) -> None:
    """Unmount. With ``detach`` it leaves the tree at once and goes when its last user does."""
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
    check(libc.umount2(os.fsencode(target), flags), "umount", target)


def unmount_if_mounted(target: str | Path, *, detach: bool = False) -> bool:
    """Unmount unless nothing is mounted there; returns whether something was."""
    try:
        unmount(target, detach=detach)
    except OSError as err:
        if err.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


def bind(
    source: str | Path, target: str | Path, *, read_only: bool = False, recursive: bool = False
) -> None:
    """Bind ``source`` to ``target``; ``read_only`` is for the host's eyes: nosuid and nodev too.

    That takes a second call: MS_BIND ignores the flags.
    """
    recursion = MS_REC if recursive else 0
    mount(os.fspath(source), target, "none", MS_BIND | recursion)
    if read_only:
        try:
            seen = MS_RDONLY | MS_NOSUID | MS_NODEV
            mount("none", target, "none", MS_BIND | MS_REMOUNT | seen | recursion)
        except OSError:
            unmount(target, detach=True)
            raise


def tmpfs(target: str | Path, *, mode: int, size_bytes: int, flags: int = MS_NOSUID) -> None:
    """Mount an empty tmpfs of at most ``size_bytes``."""
    mount("tmpfs", target, "tmpfs", flags, f"mode={mode:o},size={size_bytes}")


def make_private(target: str | Path) -> None:
    """Stop mount events from crossing ``target``, for everything below it too."""
    mount("none", target, "none", MS_REC | MS_PRIVATE)


def overlay(
    lowers: Sequence[str | Path],
    upper: str | Path,
    work: str | Path,
    target: str | Path,
    *,
    extra: str = "",
) -> None:
    """Mount an overlay; ``lowers`` from the topmost down. Upper and work share a file system."""
    lower = ":".join(_escape(os.fspath(path)) for path in lowers)
    options = f"lowerdir={lower},upperdir={_escape(str(upper))},workdir={_escape(str(work))}"
    mount("overlay", target, "overlay", 0, f"{options},{extra}" if extra else options)


def _escape(path: str) -> str:
    """Escape what separates overlay's options."""
    return re.sub(r"([\\,:])", r"\\\1", path)


def mount_table() -> list[MountEntry]:
    """Return the mounts of the caller's mount namespace, oldest first."""
    # thread-self: a thread may be in a mount namespace of its own, self is the main thread's.
    with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return [_parse(line) for line in table]


def _parse(line: str) -> MountEntry:
    left, _, right = line.rstrip("\n").partition(" - ")
    fields, tail = left.split(" "), right.split(" ")
    return MountEntry(
        target=_unescape(fields[4]),
        fstype=tail[0],
        source=_unescape(tail[1]),
        options=f"{fields[5]},{tail[2] if len(tail) > 2 else ''}",
        device=fields[2],
        root=_unescape(fields[3]),
    )


def _unescape(text: str) -> str:
    """Undo the octal escapes of proc(5)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def is_mounted(target: str | Path) -> bool:
    """Return whether something is mounted exactly at ``target``."""
    return bool(mounts_at(target))


def mounts_at(target: str | Path) -> list[MountEntry]:
    """Return what is mounted at ``target``, the one on top last."""
    wanted = os.path.realpath(target)
    return [entry for entry in mount_table() if entry.target == wanted]


def mounts_below(directory: str | Path) -> list[MountEntry]:
    """Return the mounts at or below ``directory``, deepest and newest first: unmount order."""
    prefix = os.path.realpath(directory)
    found = [e for e in mount_table() if e.target == prefix or e.target.startswith(f"{prefix}/")]
    return found[::-1]
