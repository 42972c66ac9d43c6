"""When bytes may leave an emulated link: arithmetic only, no clock and no sockets of its own.

``Pacer`` is one direction of one connection. A burst of ``n`` bytes takes ``n / rate`` seconds on
the wire and leaves when its last byte would have arrived. While data keeps coming, lateness of
the caller is not lost: the next burst is timed from when the last one was due, so that the mean
rate is exact however coarse the caller's timers are. Once idle, the wire starts anew.
"""

from __future__ import annotations


class Pacer:
    """One direction of one connection. Times are seconds of any steady clock."""

    def __init__(self, bytes_per_s: float) -> None:
        """``bytes_per_s`` 0 means no limit."""
        self._seconds_per_byte = 1.0 / bytes_per_s if bytes_per_s > 0 else 0.0
        self._wire_free_s = 0.0
        self._busy = False

    def due(self, length: int, now_s: float) -> float:
        """Put ``length`` bytes on the wire; return when they have arrived."""
        start_s = self._wire_free_s if self._busy else max(self._wire_free_s, now_s)
        self._busy = True
        self._wire_free_s = start_s + length * self._seconds_per_byte
        return self._wire_free_s

    def idle(self) -> None:
        """Say that nothing waits to be sent: the next burst starts when it comes."""
        self._busy = False
