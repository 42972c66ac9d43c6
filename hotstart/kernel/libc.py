"""The C library through ctypes: argument types in one place, errors that keep errno and path.

Every wrapper in this package is two to five lines around one call and ends in ``check``. ctypes
releases the GIL around each call, so a blocking call stops only its own thread.
"""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL("libc.so.6", use_errno=True)

_int, _str, _ulong = ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong
libc.mount.argtypes = [_str, _str, _str, _ulong, _str]
libc.umount2.argtypes = [_str, _int]
libc.setns.argtypes = [_int, _int]
libc.unshare.argtypes = [_int]
libc.fanotify_init.argtypes = [ctypes.c_uint, ctypes.c_uint]
libc.fanotify_mark.argtypes = [_int, ctypes.c_uint, ctypes.c_uint64, _int, _str]
libc.ioctl.argtypes = [_int, _ulong, ctypes.c_void_p]
libc.prctl.argtypes = [_int, _ulong, _ulong, _ulong, _ulong]
libc.syscall.restype = ctypes.c_long
libc.signal.argtypes = [_int, ctypes.c_void_p]
libc.signal.restype = ctypes.c_void_p

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_SIGPIPE = 13
_SIG_IGN = ctypes.c_void_p(1)


def os_error(call: str, path: str | os.PathLike[str] = "") -> OSError:
    """Return the OSError of the C call that has just failed, naming the call and the path."""
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}", os.fspath(path) or None)


def check(result: int, call: str, path: str | os.PathLike[str] = "") -> int:
    """Return ``result``, or raise the OSError of ``call`` if it is negative."""
    if result < 0:
        raise os_error(call, path)
    return result


def ignore_broken_pipes() -> None:
    """Have SIGPIPE ignored again, as Python does at its start; from any thread.

    libfuse sets it back to "end the process" when a mount ends (fuse_remove_signal_handlers in
    lib/fuse_signals.c), and Python's own ``signal`` works in the main thread only.
    """
    libc.signal(_SIGPIPE, _SIG_IGN)


def outlive_parent() -> None:
    """Take back that the end of the parent kills this process (prctl(2), PR_SET_PDEATHSIG)."""
    check(libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0), "prctl")
