"""How many descriptors the processes of a node need, and whether they may have them.

Agent, keeper and fill worker each hold file, group and journal of every served device; the worker
also holds one descriptor for each reader that waits. A worker without a descriptor left loses the
next event, and the kernel fails its reader with EPERM: so what would not fit is refused before it
is mounted, and an agent with less than NEED_AT_START does not start.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from hotstart.core.errors import UserError

A_DEVICE = 3
WAITING_READERS = 1024
OTHER = 512
"""Connections to stores and clients, logs, containers' streams."""
NEED_AT_START = WAITING_READERS + OTHER + 128 * A_DEVICE


class DescriptorsShort(UserError):
    """RLIMIT_NOFILE leaves no room for what was asked."""

    def __init__(self, limit: int, need: int, what: str) -> None:
        super().__init__(
            f"{what} needs {need} open files, and at most {limit} are allowed (RLIMIT_NOFILE)",
            f"raise the hard limit (ulimit -Hn {need}, LimitNOFILE= of its service), end everything"
            " (hotstart agent stop --all) and start again",
        )
        self.limit, self.need = limit, need


def raise_limit() -> int:
    """Raise this process's limit to the hard one; return what it is now."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # beyond fs.nr_open
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def limit_of(pid: int) -> int:
    """Return the limit of another process of this user, or of this one if that has ended."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_start(limit: int) -> None:
    """Raise DescriptorsShort for a limit that is too low to begin with."""
    if limit < NEED_AT_START:
        raise DescriptorsShort(limit, NEED_AT_START, "the agent")


def check_devices(limit: int, devices: int) -> None:
    """Raise DescriptorsShort unless so many devices fit beside readers that wait."""
    need = WAITING_READERS + OTHER + devices * A_DEVICE
    if need > limit:
        raise DescriptorsShort(limit, need, f"serving {devices} devices")
