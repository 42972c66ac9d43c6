"""Named phases of one operation, in milliseconds, with what no phase accounts for.

A timer belongs to one operation. ``phase`` may be used from several threads; phases that overlap
are measured each for itself, so their sum may exceed the whole (``unaccounted_ms`` is then 0).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """Measures phases from the moment it is made. The clock returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._elapsed_ms: dict[str, float] = {}
        self._marks_ms: dict[str, float] = {}
        self.started_s = clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the block to ``name``, failed or not."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, (self._clock() - start) * 1e3)

    def check(self) -> None:
        """Raise if the operation is to end; whoever waits long calls it meanwhile. Here: never."""

    def add(self, name: str, elapsed_ms: float) -> None:
        """Add a phase that was measured elsewhere (another process, a report)."""
        with self._lock:
            self._elapsed_ms[name] = self._elapsed_ms.get(name, 0.0) + elapsed_ms

    def mark(self, name: str) -> None:
        """Remember when ``name`` happened, in milliseconds since the start."""
        with self._lock:
            self._marks_ms.setdefault(name, self.total_ms())

    def total_ms(self) -> float:
        """Milliseconds since the timer was made."""
        return (self._clock() - self.started_s) * 1e3

    def marks(self) -> dict[str, float]:
        """Return the marks, in milliseconds since the start."""
        with self._lock:
            return {name: round(value, 2) for name, value in self._marks_ms.items()}

    def report(self, total_ms: float | None = None) -> dict[str, float]:
        """Return every phase and ``unaccounted_ms`` against ``total_ms`` (default: until now)."""
        total = self.total_ms() if total_ms is None else total_ms
        with self._lock:
            phases = {f"{name}_ms": round(value, 2) for name, value in self._elapsed_ms.items()}
        phases["unaccounted_ms"] = round(max(0.0, total - sum(phases.values())), 2)
        return phases
