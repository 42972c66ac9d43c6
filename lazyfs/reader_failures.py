"""Why readers got an error: the last reason of each device, for whoever hears only of EIO.

The kernel tells a reader no more than EIO (SIGBUS for a mapping). Whoever started that reader asks
here what was behind it. Kept in memory only, also after a device was let go; of more than KEPT
devices the one that failed longest ago is forgotten. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from lazyfs.error_roots import error_to_json

KEPT = 1024


class ReaderFailures:
    """The last failure of each device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, dict[str, Any]] = {}

    def note(self, device_id: str, error: BaseException) -> None:
        """Keep why a reader is about to get an error, in place of the device's one before."""
        failure = {**error_to_json(error), "at_ns": time.time_ns()}
        with self._lock:
            self._last.pop(device_id, None)
            self._last[device_id] = failure
            if len(self._last) > KEPT:
                del self._last[next(iter(self._last))]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return by device id ``error``, ``root`` and ``hint`` of an error, and when it was.

        ``at_ns`` are nanoseconds since 1970.
        """
        with self._lock:
            return dict(self._last)
