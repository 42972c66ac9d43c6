"""Raw samples and what is said about them: medians, tails and ratios within one run.

Values and arithmetic only. A percentile is a value that was really measured (nearest rank), so
with few samples the 99th is the slowest one: ``n`` always stands beside it. Only samples whose
answer was correct count; a path with any wrong answer says so in ``failed``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotstart.core.errors import HotstartError


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured start. Milliseconds; ``fetched_bytes`` are stored bytes from the store."""

    path: str
    round: int
    ready_ms: float
    wall_ms: float
    phases: Mapping[str, float] = field(default_factory=dict)
    fetched_bytes: int = 0
    answer_ok: bool = True
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the sample as the result document has it; times to a hundredth."""
        document: dict[str, Any] = {
            "path": self.path,
            "round": self.round,
            "ready_ms": _hundredth(self.ready_ms),
            "wall_ms": _hundredth(self.wall_ms),
            "phases": {name: _hundredth(value) for name, value in self.phases.items()},
            "fetched_bytes": self.fetched_bytes,
            "answer_ok": self.answer_ok,
        }
        if self.problem:
            document["problem"] = self.problem
        return document


def _hundredth(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all values do not exceed."""
    if not values:
        raise ValueError("percentile of no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(samples: Iterable[Sample]) -> dict[str, dict[str, Any]]:
    """Return what is said of each path, in the order in which the paths first appear."""
    good: dict[str, list[Sample]] = {}
    failed: dict[str, int] = {}
    for sample in samples:
        rows = good.setdefault(sample.path, [])
        if sample.answer_ok and math.isfinite(sample.ready_ms):
            rows.append(sample)
        else:
            failed[sample.path] = failed.get(sample.path, 0) + 1
    return {path: _summary(rows, failed.get(path, 0)) for path, rows in good.items()}


def _summary(rows: Sequence[Sample], failed: int) -> dict[str, Any]:
    summary: dict[str, Any] = {"n": len(rows), "median_ms": None, "p99_ms": None}
    if rows:
        ready = [row.ready_ms for row in rows]
        summary |= {
            "median_ms": round(statistics.median(ready), 2),
            "p99_ms": round(percentile(ready, 0.99), 2),
            "min_ms": round(min(ready), 2),
            "max_ms": round(max(ready), 2),
            "median_wall_ms": round(statistics.median(row.wall_ms for row in rows), 2),
            "median_fetched_bytes": int(statistics.median(row.fetched_bytes for row in rows)),
        }
    if failed:
        summary["failed"] = failed
    return summary


class StartsFailed(HotstartError):
    """Some starts of a run gave no correct answer; the document's samples hold the reasons."""


def refuse_failures(summary: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise StartsFailed if a start of any path gave a wrong answer, or none."""
    failed = {path: row["failed"] for path, row in summary.items() if row.get("failed")}
    if failed:
        each = ", ".join(f"{path} {number}" for path, number in failed.items())
        total = sum(failed.values()) + sum(row["n"] for row in summary.values())
        raise StartsFailed(
            f"{sum(failed.values())} of {total} starts gave no correct answer: {each}; "
            "the samples of the JSON document say why"
        )


def is_ours(path: str) -> bool:
    """Whether a path goes through Hotstart; the others are what people have today."""
    return path.startswith(("hotstart", "restore", "lazy"))


RATIOS = (
    ("cold", "restore"),
    ("restore", "criu-plain"),
    ("hotstart-cold", "cold"),
    ("cold-empty-cache", "restore-empty-cache"),
    ("pull-and-cold", "lazy-cold"),
    ("pull-and-cold", "lazy-cold-unrecorded"),
    ("pull-and-cold", "restore-empty-node"),
    ("pull-and-cold", "restore-empty-node-unrecorded"),
)
"""Which medians are divided by which. Both sides come from the same interleaved rounds."""


def ratios(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return every ratio of ``RATIOS`` whose two paths were measured."""
    found = {}
    for above, below in RATIOS:
        upper = summary.get(above, {}).get("median_ms")
        lower = summary.get(below, {}).get("median_ms")
        if upper is not None and lower:
            found[f"{above}/{below}"] = round(upper / lower, 3)
    return found
