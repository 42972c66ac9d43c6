"""What happened on one device since this process serves it; shown by ``mounts`` and the benchmark.

Counters only grow. They are changed without a lock by the one thread that owns each (faults: the
dispatcher) or under the engine's lock (everything else); readers may see them a moment apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from lazyfs.prefetch_usage import PrefetchUsage

KEPT_WAITS = 4096
WAIT_BOUNDS_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 100_000)
"""Waits are counted by these: from a fetch on this machine to a reader's patience (patience.py)."""


@dataclass(slots=True, eq=False)
class DeviceCounters:
    """``faults``: events raised; ``misses``: those that had to wait for bytes.

    ``mismatches``: chunks that came wrong; ``quarantined``: those that did so twice.
    """

    prefetch: PrefetchUsage = field(default_factory=lambda: PrefetchUsage(0))
    faults: int = 0
    misses: int = 0
    answered_for_predecessor: int = 0
    requests: int = 0
    demand_requests: int = 0
    fetched_bytes: int = 0
    retries: int = 0
    mismatches: int = 0
    quarantined: int = 0
    errors: int = 0
    stalled_ms: float = 0.0
    """How long readers waited, all waits added up."""
    waits_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_WAITS))
    wait_counts: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BOUNDS_MS) + 1))
    """How many waits were no longer than each bound and longer than the one before; then the rest.
    Unlike ``waits_ms`` it forgets none."""

    def waited(self, wait_ms: float) -> None:
        """Count a reader's wait that has ended."""
        self.stalled_ms += wait_ms
        self.waits_ms.append(wait_ms)
        at = bisect_left(WAIT_BOUNDS_MS, wait_ms)
        self.wait_counts[at] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the counters, and the median and 99th percentile of the waits.

        ``waits`` are pairs of an upper bound in ms, null for the last, and a count.
        """
        waits = sorted(self.waits_ms)
        return {
            "faults": self.faults,
            "misses": self.misses,
            "answered_for_predecessor": self.answered_for_predecessor,
            "requests": self.requests,
            "demand_requests": self.demand_requests,
            "fetched_bytes": self.fetched_bytes,
            "retries": self.retries,
            "mismatches": self.mismatches,
            "quarantined": self.quarantined,
            "errors": self.errors,
            "read_bytes": self.prefetch.read_bytes,
            "prefetched_bytes": self.prefetch.prefetched_bytes,
            "prefetch_used_bytes": self.prefetch.used_bytes,
            "prefetch_unused_bytes": self.prefetch.unused_bytes,
            "stalled_ms": round(self.stalled_ms, 3),
            "fault_median_ms": _quantile(waits, 0.5),
            "fault_p99_ms": _quantile(waits, 0.99),
            "waits": list(zip((*WAIT_BOUNDS_MS, None), self.wait_counts, strict=True)),
        }


def _quantile(ordered: list[float], share: float) -> float:
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
