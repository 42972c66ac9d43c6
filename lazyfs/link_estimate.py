"""What a link needs, from the requests that went over it: how many at a time, how large. Pure.

A request takes the link's latency and its bytes at the rate of one connection. Both are hidden by
requests side by side: as many as are under way while GOAL_BYTES_PER_S, what two cores decode,
verify and write, flows past (Little's law), within LEAST and MOST. The *best* of the last requests
count, the shortest latency and the highest rate: what the machine's own load or the requests beside
them added is no reason to send still more.

Thread-safe.
"""

from __future__ import annotations

import threading
from collections import deque

LEAST, MOST = 4, 16
UNKNOWN = MOST
"""Requests at a time before anything is known."""
GOAL_BYTES_PER_S = 1e9
SMALL_BYTES, LARGE_BYTES = 128 << 10, 384 << 10
"""Requests that tell the latency, and those that tell the rate."""
KEPT = 64
FEW = 8
FEW_REQUEST_BYTES, MANY_REQUEST_BYTES = 4 << 20, 2 << 20
"""Stored bytes of one request, with few and with many at a time: memory is their product."""


class LinkEstimate:
    """Latency and rate of one store's link, of the last requests.

    ``latency_s``: seconds before the first byte of an answer; ``bytes_per_s``: rate of one
    connection after it; both 0 while nothing is known. ``in_flight``: how many requests to have
    under way. ``request_bytes``: stored bytes to ask for at once. ``window_bytes``: how far to be
    ahead of a reader at most, as much again as is under way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._small_s: deque[float] = deque(maxlen=KEPT)
        self._large: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self.latency_s = 0.0
        self.bytes_per_s = 0.0
        self.in_flight = UNKNOWN
        self._size()

    def note(self, length: int, seconds: float) -> None:
        """Take notice of a request that brought ``length`` bytes in ``seconds``."""
        with self._lock:
            if length <= SMALL_BYTES:
                self._small_s.append(seconds)
            elif length >= LARGE_BYTES:
                self._large.append((length, seconds))
            self._estimate()

    def _estimate(self) -> None:
        self.latency_s = min(self._small_s, default=0.0)
        self.bytes_per_s = max((self._rate(*one) for one in self._large), default=0.0)
        if self.bytes_per_s:
            request_s = self.latency_s + MANY_REQUEST_BYTES / self.bytes_per_s
            needed = round(GOAL_BYTES_PER_S * request_s / MANY_REQUEST_BYTES)
            self.in_flight = max(LEAST, min(MOST, needed))
            self._size()

    def _rate(self, length: int, seconds: float) -> float:
        # A request that took hardly longer than the latency says little of the rate.
        return length / max(seconds - self.latency_s, seconds / 4, 1e-6)

    def _size(self) -> None:
        few = self.in_flight < FEW
        self.request_bytes = FEW_REQUEST_BYTES if few else MANY_REQUEST_BYTES
        self.window_bytes = 2 * self.in_flight * self.request_bytes
