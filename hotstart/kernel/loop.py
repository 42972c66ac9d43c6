"""Loop devices, for kernels that can't mount EROFS from files (before 6.12).

Only beneath the FUSE filler: a loop device bypasses fanotify's pre-content hooks, and reads of a
sparse file through it would be zeros. Facts: loop(4), <linux/loop.h>. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from hotstart.kernel.libc import check, libc

_CONTROL = "/dev/loop-control"
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_FLAGS_READ_ONLY, _FLAGS_AUTOCLEAR = 1, 4
_CONFIG = struct.Struct("<II232s64x")
"""struct loop_config: fd, block size, struct loop_info64, reserved."""
_INFO_FLAGS_AT = 52
_ATTEMPTS = 16


def attach(path: Path) -> tuple[Path, int]:
    """Attach ``path`` read-only to a free loop device.

    Returns the device and a descriptor of it that the caller closes once the device is mounted: it
    detaches itself when its last user is gone. Raises OSError.
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = Path(f"/dev/loop{_free_number()}")
            opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            if _configure(opened, backing):
                return device, opened
            os.close(opened)  # somebody else took it first
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "no free loop device", os.fspath(path))


def _free_number() -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return check(libc.ioctl(control, _CTL_GET_FREE, None), "LOOP_CTL_GET_FREE", _CONTROL)
    finally:
        os.close(control)


def _configure(opened: int, backing: int) -> bool:
    details = bytearray(232)
    struct.pack_into("<I", details, _INFO_FLAGS_AT, _FLAGS_READ_ONLY | _FLAGS_AUTOCLEAR)
    config = _CONFIG.pack(backing, 4096, bytes(details))
    try:
        check(libc.ioctl(opened, _CONFIGURE, config), "LOOP_CONFIGURE")
    except OSError as err:
        if err.errno == errno.EBUSY:
            return False
        raise
    return True
