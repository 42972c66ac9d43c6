"""What a page session has done so far; written by its thread, read by any."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class PageCounters:
    """Counts of pages unless said otherwise; times in milliseconds since the session began."""

    faults: int = 0
    zero_pages: int = 0
    copied_pages: int = 0
    working_set_pages: int = 0
    present_pages: int = 0
    slow_reads: int = 0
    stalled_ms: float = 0.0
    tried_again: int = 0
    events: int = 0
    forks: int = 0
    marks_ms: dict[str, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    def now_ms(self) -> float:
        """Milliseconds since the session began."""
        return (time.monotonic() - self.began_s) * 1e3

    def mark(self, name: str) -> None:
        """Remember when something happened first."""
        self.marks_ms.setdefault(name, round(self.now_ms(), 2))

    def report(self) -> dict[str, Any]:
        """Return everything as JSON."""
        value = asdict(self)
        del value["began_s"]
        value["stalled_ms"] = round(self.stalled_ms, 2)
        return value
