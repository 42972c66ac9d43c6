"""An eventfd by which other threads wake the one that polls it, also when that one has just ended.

A descriptor's number means something else as soon as it is closed: written to then, eight bytes
would go into whatever was opened since.
"""

from __future__ import annotations

import os
import threading


class WakeUp:
    """Owns the eventfd. ``ring`` may come from any thread at any time; the rest is the owner's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        """Make the descriptor readable; nothing happens once it is closed."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Take note: the descriptor is readable no more. It must have been."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.fd)
