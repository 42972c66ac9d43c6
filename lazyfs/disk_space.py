"""How much space is left for the cache, and the errors of having none.

Some of the file system is left free (``reserve_of``): what is small and must always be written
(state, ready maps, logs, journals) lies on the same one as the cache. So a fill fails *before* the
disk is full to the last block, and of the blocks that a file system keeps for root none is taken.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from hotstart.core.errors import HotstartError, Unavailable

RESERVE_BYTES = 64 << 20
RESERVE_SHARE = 64
"""The reserve is a 64th of a file system, at most RESERVE_BYTES."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(HotstartError):
    """There is no space for a chunk and nothing in the cache may go; its readers get ENOSPC."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"no space is left for the cache: {why}; free some, or unmount images that nobody needs"
        )


class DiskFullForNow(DiskFull, Unavailable):
    """There is no space, and whether something may go could not be asked: tried again."""


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What a file system has left beyond the reserve; negative when it is eaten into."""

    beyond_reserve: int

    @classmethod
    def of(cls, place: int | str | os.PathLike[str]) -> FreeSpace:
        """Ask the file system of an open file or a path."""
        found = os.statvfs(place)
        reserve = reserve_of(found.f_blocks * found.f_frsize)
        return cls(found.f_bavail * found.f_frsize - reserve)


def reserve_of(size_bytes: int) -> int:
    """Return how much of a file system of that size is left free."""
    return min(RESERVE_BYTES, size_bytes // RESERVE_SHARE)


def is_full(error: BaseException) -> bool:
    """Tell whether an error is of a full disk, or of a user's quota."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _FULL)


def errno_for_reader(error: BaseException) -> int:
    """Return the error number that a read is failed with."""
    return errno.ENOSPC if is_full(error) else errno.EIO
