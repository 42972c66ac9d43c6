"""Progress as events to a sink; libraries never draw.

A task is named once (``started``), moves in units (bytes unless it says otherwise) and ends once.
Sinks may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one task stands: ``done`` of ``total`` (None: not known), in ``unit``."""

    task: str
    done: int
    total: int | None
    unit: str = "bytes"
    finished: bool = False


class ProgressSink(Protocol):
    """Takes events; must be quick and must not raise."""

    def update(self, event: Progress) -> None:
        """Show, count or drop one event."""


class NullSink:
    """Drops everything."""

    def update(self, event: Progress) -> None:
        """Drop the event."""


class LineSink:
    """Writes a plain line per task at most every ``interval_s``, and always its last one."""

    def __init__(self, write: Callable[[str], object], interval_s: float = 2.0) -> None:
        self._write = write
        self._interval_s = interval_s
        self._last: dict[str, float] = {}

    def update(self, event: Progress) -> None:
        """Write the event if it is due."""
        now = time.monotonic()
        if not event.finished and now - self._last.get(event.task, 0.0) < self._interval_s:
            return
        self._last[event.task] = now
        total = f" of {event.total}" if event.total is not None else ""
        state = " done" if event.finished else ""
        self._write(f"{event.task}: {event.done}{total} {event.unit}{state}\n")
