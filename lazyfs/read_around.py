"""What is fetched beside a miss: its surroundings, and more of them the more misses lie close by.

A miss costs a round trip, whatever it fetches; half a mebibyte beside it costs the link a
few milliseconds. Misses that follow in the same stretch of a device (the rows of a table that a
new request looks up, the objects of a heap) double what is fetched, so that a handful of round
trips brings what would have been one each. Nobody waits for any of it. What is remembered is
bounded: stretches that were missed in longest ago are forgotten. Thread-safe.
"""

from __future__ import annotations

import threading

from hotstart.core.span import Span

STRETCH_BYTES = 64 << 20
FIRST_BYTES, MOST_BYTES = 512 << 10, 8 << 20
"""Device bytes around the first miss in a stretch, and at most."""
KEPT_STRETCHES = 1024


class ReadAround:
    """Remembers for the stretches missed in last how much is fetched around the next miss."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[tuple[str, int], int] = {}

    def window(self, device_id: str, missed: Span, size_bytes: int) -> Span:
        """Return what to fetch around ``missed`` on a device of ``size_bytes``."""
        stretch = (device_id, missed.offset // STRETCH_BYTES)
        with self._lock:
            length = self._next.pop(stretch, FIRST_BYTES)
            self._next[stretch] = min(2 * length, MOST_BYTES)
            if len(self._next) > KEPT_STRETCHES:
                del self._next[next(iter(self._next))]  # in the order of their last miss
        start = max(0, missed.offset - length // 2)
        end = min(size_bytes, max(missed.end, start + length))
        return Span(start, end - start)
