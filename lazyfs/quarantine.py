"""Chunks that came wrong twice: their readers get EIO at once, and the store is left alone.

A chunk is in quarantine for QUARANTINE_S, or until it is let out (``hotstart verify`` does, once it
has repaired what it can): after that a reader makes it be fetched again. Kept in memory only, so a
new worker begins without. At most KEPT chunks; beyond that the oldest is let out. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hotstart.core.digest import ChunkDigest
from hotstart.core.errors import IntegrityError

QUARANTINE_S = 30.0
KEPT = 65_536


class ChunkQuarantined(IntegrityError):
    """A chunk came wrong twice, a short while ago or just now."""

    def __init__(self, source: str, digest: ChunkDigest, left_s: float) -> None:
        super().__init__(
            f"{source}: chunk blake3:{digest.hex()} came wrong twice and is not asked for again "
            f"for {left_s:.0f} s; see hotstart verify"
        )
        self.digest = digest


class Quarantine:
    """Which chunks are not to be fetched for now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s: dict[ChunkDigest, float] = {}

    def put(self, digest: ChunkDigest) -> None:
        """Take a chunk in, for the whole time from now."""
        with self._lock:
            self._until_s.pop(digest, None)
            self._until_s[digest] = self._clock() + QUARANTINE_S
            if len(self._until_s) > KEPT:
                del self._until_s[next(iter(self._until_s))]

    def left_s(self, digest: ChunkDigest) -> float:
        """Return how long a chunk stays in, 0 if it is not."""
        if not self._until_s:  # nearly always: no lock on the way of every chunk
            return 0.0
        with self._lock:
            left_s = self._until_s.get(digest, 0.0) - self._clock()
            if left_s <= 0.0:
                self._until_s.pop(digest, None)
            return max(0.0, left_s)

    def lift(self) -> int:
        """Let every chunk out; returns how many there were."""
        with self._lock:
            count = len(self._until_s)
            self._until_s.clear()
        return count
