"""The harness: every path once a round, in an order that turns round from one round to the next.

Interleaving puts a change of the machine's load into every path alike; turning the order round
keeps a path from always following the same neighbour. A path that fails gives a failed sample
with its reason and the rounds go on: one broken path must not cost the figures of all others.
Interrupts are not caught. Owns nothing; the paths clean up after each start themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from bench.page_cache import PageCache
from bench.samples import Sample
from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.core.progress import Progress, ProgressSink

log = get_logger(__name__)


class MeasuredPath(Protocol):
    """One way to start the measured server."""

    @property
    def name(self) -> str:
        """The path's name in the result document."""

    def measure(self, round_number: int) -> Sample:
        """Start once, measure to the first correct answer, and leave nothing running.

        Raises HotstartError or OSError when there is no correct answer.
        """


class Warm:
    """A path that is measured with a warm page cache: after a drop it starts once unmeasured."""

    def __init__(self, path: MeasuredPath, cache: PageCache) -> None:
        self._path = path
        self._cache = cache
        self._warm_since: int | None = None

    @property
    def name(self) -> str:
        """The path's own name."""
        return self._path.name

    def measure(self, round_number: int) -> Sample:
        """Warm up if need be, then measure."""
        if self._warm_since != self._cache.drops:
            self._path.measure(round_number)
            self._warm_since = self._cache.drops
        return self._path.measure(round_number)


class Cold:
    """A path that empties the page cache; what others take for granted is read again after it."""

    def __init__(self, path: MeasuredPath, cache: PageCache) -> None:
        self._path = path
        self._cache = cache

    @property
    def name(self) -> str:
        """The path's own name."""
        return self._path.name

    def measure(self, round_number: int) -> Sample:
        """Measure, then read what is to be kept."""
        try:
            return self._path.measure(round_number)
        finally:
            self._cache.read_kept()


def order_of_round(paths: Sequence[MeasuredPath], round_number: int) -> list[MeasuredPath]:
    """Return the paths forwards in even rounds and backwards in odd ones."""
    return list(paths) if round_number % 2 == 0 else list(reversed(paths))


def run_rounds(paths: Sequence[MeasuredPath], rounds: int, progress: ProgressSink) -> list[Sample]:
    """Measure every path ``rounds`` times; return all samples in the order they were taken."""
    samples: list[Sample] = []
    for round_number in range(rounds):
        samples += run_round(paths, round_number, rounds, progress)
    return samples


def run_round(
    paths: Sequence[MeasuredPath], round_number: int, rounds: int, progress: ProgressSink
) -> list[Sample]:
    """Measure every path once, in this round's order; ``rounds`` there will be altogether."""
    samples: list[Sample] = []
    for path in order_of_round(paths, round_number):
        sample = _measure(path, round_number)
        samples.append(sample)
        progress.update(
            Progress(
                task=f"round {round_number + 1}/{rounds} {path.name} {_outcome(sample)}",
                done=round_number * len(paths) + len(samples),
                total=rounds * len(paths),
                unit="starts",
                finished=True,
            )
        )
    return samples


def _measure(path: MeasuredPath, round_number: int) -> Sample:
    try:
        return path.measure(round_number)
    except (HotstartError, OSError) as err:
        if _interrupted(err):
            raise KeyboardInterrupt from err
        log.warning("sample_failed", path=path.name, round=round_number, reason=str(err))
        return Sample(
            path=path.name,
            round=round_number,
            ready_ms=math.nan,
            wall_ms=math.nan,
            answer_ok=False,
            problem=str(err),
        )


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt lies behind an error that was raised while things were undone."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _outcome(sample: Sample) -> str:
    if not math.isfinite(sample.ready_ms):
        return "failed"
    return f"{sample.ready_ms:.0f} ms"
