"""Files of a tree that nobody trusts, opened so that no link leads out of it.

openat2(2) with RESOLVE_IN_ROOT (Linux 5.6) treats the tree's top as the root: absolute links and
``..`` stay inside, whatever the tree's owner does meanwhile. Descriptors belong to the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from pathlib import Path

from hotstart.kernel.libc import check, libc

# <linux/openat2.h>; the call has the same number on every architecture.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_inside(top: str | Path, path: str, flags: int = os.O_RDONLY) -> int:
    """Open ``path`` as a process whose root is ``top`` would; nothing is created."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    root = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # SAFETY: the structure lives until the call returns and its size is passed with it.
        name = ctypes.c_char_p(os.fsencode(path.lstrip("/") or "."))
        fd = libc.syscall(_SYS_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        return check(fd, "openat2", f"{top}/{path.lstrip('/')}")
    finally:
        os.close(root)


def read_inside(top: str | Path, path: str, *, limit: int = 1 << 20) -> bytes | None:
    """Return at most ``limit`` bytes of a regular file; None if there is no such regular file."""
    try:
        # O_PATH opens nothing yet: a device or fifo in the place of a file has no effect on us.
        fd = open_inside(top, path, os.O_PATH)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            return file.read(limit)
    finally:
        os.close(fd)


def write_inside(top: str | Path, directory: str, name: str, content: bytes) -> None:
    """Put a world-readable file at ``directory``/``name``, replacing a file or link atomically.

    The directory must exist inside ``top``. A directory called ``name`` raises IsADirectoryError.
    """
    parent = open_inside(top, directory, os.O_PATH | os.O_DIRECTORY)
    staged = f".{name}.{secrets.token_hex(4)}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(staged, flags, 0o644, dir_fd=parent), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        os.rename(staged, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=parent)
        raise
    finally:
        os.close(parent)


def resolve_inside(top: str | Path, path: str) -> str:
    """Return ``path`` with the links in it followed as a process whose root is ``top`` would.

    Starts with a slash; what does not exist (yet) is taken as it is written, without ``..``.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for count in range(len(parts), 0, -1):
        try:
            fd = open_inside(top, "/".join(parts[:count]), os.O_PATH)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            continue
        try:
            found = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        below = os.path.relpath(found, os.path.realpath(top))
        return "/" + "/".join([*(part for part in (below,) if part != "."), *parts[count:]])
    return "/" + "/".join(parts)


def make_inside(top: str | Path, path: str, *, directory: bool) -> None:
    """Make a directory, or an empty file, and the directories above it, all inside of ``top``.

    What is there stays as it is.
    """
    *above, name = [part for part in path.split("/") if part not in ("", ".")]
    for count, part in enumerate(above):
        _make_at(top, "/".join(above[:count]), part, directory=True)
    _make_at(top, "/".join(above), name, directory=directory)


def _make_at(top: str | Path, parent: str, name: str, *, directory: bool) -> None:
    where = open_inside(top, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=where)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=where))
    except FileExistsError:
        pass
    finally:
        os.close(where)
