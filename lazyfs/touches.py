"""What readers touched, in order, with times: the raw material of a trace.

One log per device; ``add`` is called by the dispatcher alone, once per event, and costs one append.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from hotstart.core.errors import Conflict
from hotstart.store.trace import MAX_SPANS, Trace, TraceSpan


class RecordingUnderWay(Conflict):
    """Somebody records the device already."""


class TouchLog:
    """Touches of one device while ``active``. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.active = False
        self._touches: list[tuple[float, int, int]] = []

    def start(self) -> None:
        """Log from now on. Raises RecordingUnderWay: a log holds one recording at a time."""
        if self.active:
            raise RecordingUnderWay("this image's touches are being recorded for another start")
        self._touches = []
        self.active = True

    def add(self, first_page: int, pages: int) -> None:
        """Log one touch, unless a trace could not hold it."""
        if len(self._touches) < MAX_SPANS:
            self._touches.append((time.monotonic(), first_page, pages))

    def stop(self) -> list[tuple[float, int, int]]:
        """Log no more; return (seconds, first page, pages) in order."""
        self.active = False
        touches, self._touches = self._touches, []
        return touches


def make_trace(
    device_ids: Sequence[str], touches: Sequence[Sequence[tuple[float, int, int]]]
) -> Trace:
    """Merge the touches of several devices into one trace by time; repeated ones are dropped."""
    merged = sorted(
        (at, device, first, pages)
        for device, log in enumerate(touches)
        for at, first, pages in log
        if pages > 0
    )
    start = merged[0][0] if merged else 0.0
    seen: set[tuple[int, int, int]] = set()
    spans: list[TraceSpan] = []
    for at, device, first, pages in merged:
        if (device, first, pages) not in seen:
            seen.add((device, first, pages))
            spans.append(TraceSpan(int((at - start) * 1e3), device, first, pages))
    return Trace(tuple(device_ids), tuple(spans))
