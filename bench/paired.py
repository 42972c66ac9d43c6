"""Two paths of one run compared round by round, and how sure one may be of the outcome.

Values and arithmetic only. Both sides of a pair come from the same round, so that a change of the
machine's load falls out. The bound is a one-sided 95 % bootstrap bound of the median: the rounds
are drawn again, with repetition, and the bound is the 5th percentile of the medians (lower), or
the 95th (upper). With five rounds that is nearly the worst but one: few samples give wide bounds.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.samples import Sample, percentile

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 20_000
"""The same samples give the same bound."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The median of paired values with both of its one-sided bounds; ``n`` pairs."""

    median: float
    lower: float
    upper: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as the result document has it."""
        return {
            "median": round(self.median, 4),
            "lower": round(self.lower, 4),
            "upper": round(self.upper, 4),
            "n": self.n,
        }


def compare(values: Sequence[float]) -> Comparison | None:
    """Return what is known of the median of ``values``; None of no values."""
    if not values:
        return None
    # A seeded generator on purpose: a result is judged the same way every time.
    draw = random.Random(_SEED)  # noqa: S311
    medians = [statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return Comparison(
        median=statistics.median(values),
        lower=percentile(medians, 1 - CONFIDENCE),
        upper=percentile(medians, CONFIDENCE),
        n=len(values),
    )


def pairs(
    samples: Iterable[Sample], first: str, second: str, value: Callable[[Sample], float]
) -> list[tuple[float, float]]:
    """Return ``value`` of both paths for each round in which both gave a right answer."""
    found: dict[str, dict[int, float]] = {first: {}, second: {}}
    for sample in samples:
        if sample.path in found and sample.answer_ok and math.isfinite(sample.ready_ms):
            found[sample.path][sample.round] = value(sample)
    both = sorted(found[first].keys() & found[second].keys())
    return [(found[first][number], found[second][number]) for number in both]
