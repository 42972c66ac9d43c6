"""Gives up privileges that a process needs no more: capabilities and the hope of new ones.

Facts: capabilities(7), prctl(2). Capabilities belong to a *thread*; threads that are started later
inherit them, so a process drops them before it starts any. What is dropped is gone from the
permitted, effective, inheritable, ambient and bounding sets, and no_new_privs keeps set-user-id
programs from bringing it back.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from pathlib import Path

from hotstart.kernel.libc import check, libc

# <linux/capability.h>
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_KILL = 0, 1, 2, 3, 5
CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 19, 21, 24
_VERSION_3 = 0x20080522
# <linux/prctl.h>
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]  # ctypes' own


class _Data(ctypes.Structure):
    _fields_ = [  # likewise
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def keep_capabilities(kept: Iterable[int]) -> None:
    """Drop every capability of this process but ``kept``, for good; those it lacks stay lacking.

    Call it in the main thread before another is started: raises RuntimeError otherwise. Raises
    OSError.
    """
    if threading.active_count() > 1:
        raise RuntimeError("capabilities belong to threads: drop them before the first is started")
    wanted = set(kept)
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl no_new_privs")
    check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl ambient")
    have = _bits("CapPrm")
    if have >> 8 & 1:  # CAP_SETPCAP: the bounding set may be cut
        for number in range(_last() + 1):
            if number not in wanted:
                check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl bounding set")
    _capset(have & sum(1 << number for number in wanted))


def may(capability: int) -> bool:
    """Tell whether this process has a capability, as its main thread had it last."""
    return bool(_bits("CapEff") >> capability & 1)


def _capset(bits: int) -> None:
    header = _Header(_VERSION_3, 0)
    halves = (_Data * 2)()
    for half, data in enumerate(halves):
        data.effective = data.permitted = bits >> 32 * half & 0xFFFFFFFF
        data.inheritable = 0
    # SAFETY: both structures live until the call returns; version 3 takes two _Data.
    check(libc.capset(ctypes.byref(header), halves), "capset")


def _bits(field: str) -> int:
    """Return a set of capabilities of the main thread (proc(5), /proc/PID/status)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
        name, _, value = line.partition(":")
        if name == field:
            return int(value, 16)
    return 0


def _last() -> int:
    """Return the highest capability that this kernel knows."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
