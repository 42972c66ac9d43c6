"""Named points at which a test kills or slows the fill worker, to prove what its successor does.

The worker gets ``POINT:N`` on its command line and ends itself by SIGKILL when it passes the point
for the N-th time, or ``POINT:MS`` and waits so long each time. Else a point costs one call.
"""

from __future__ import annotations

import enum
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import TypeAlias

from hotstart.core.errors import UserError


class CrashPoint(enum.Enum):
    """Where a worker may die; each leaves another half of an event's or a chunk's life behind."""

    EVENT_READ = "event-read"
    FETCHED = "fetched"
    WRITTEN = "written"
    READY_SET = "ready-set"
    ANSWERED = "answered"
    SLOT_CLEARED = "slot-cleared"
    LEFT_BEHIND_ANSWERED = "left-behind-answered"
    LEFT_BEHIND_CLEARED = "left-behind-cleared"


Passage: TypeAlias = Callable[[CrashPoint], None]


def no_crash(point: CrashPoint) -> None:
    """Pass every point."""


def crash_at(text: str) -> Passage:
    """Return a passage that ends the process at ``POINT:N``. Raises UserError for another text."""
    wanted, nth = _parse(text)
    passed = itertools.count(1)

    def passage(point: CrashPoint) -> None:
        if point is wanted and next(passed) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return passage


def slow_at(text: str) -> Passage:
    """Return a passage that waits MS milliseconds at ``POINT:MS``. Raises UserError."""
    wanted, delay_ms = _parse(text)

    def passage(point: CrashPoint) -> None:
        if point is wanted:
            time.sleep(delay_ms / 1e3)

    return passage


def _parse(text: str) -> tuple[CrashPoint, int]:
    name, _, number = text.partition(":")
    try:
        return CrashPoint(name), int(number)
    except ValueError as err:
        names = ", ".join(point.value for point in CrashPoint)
        raise UserError(f"{text}: not a crash point", f"write POINT:N; points: {names}") from err
