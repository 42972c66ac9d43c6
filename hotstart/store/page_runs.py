"""Runs of pages and the set of pages already seen; shared by traces and start bundles.

Pure values. A run is ``pages`` pages of device ``device`` from ``first_page`` on; devices are
numbers into a list of device ids kept beside the runs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_PAGE = 1 << 38
MAX_RUN_PAGES = 1 << 31


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Consecutive pages of one device (or of one memory file, where the name says so)."""

    device: int
    first_page: int
    pages: int

    @property
    def end_page(self) -> int:
        """First page after the run."""
        return self.first_page + self.pages


def coalesce(runs: Iterable[Run]) -> list[Run]:
    """Return sorted runs with neighbours joined; the runs must not overlap."""
    joined: list[Run] = []
    for run in sorted(runs):
        last = joined[-1] if joined else None
        if last and last.device == run.device and last.end_page == run.first_page:
            joined[-1] = Run(last.device, last.first_page, last.pages + run.pages)
        else:
            joined.append(run)
    return joined


class PageSet:
    """The pages of one device seen so far, as sorted disjoint ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, first: int, pages: int) -> Iterator[tuple[int, int]]:
        """Add a range; return an iterator over its parts that are new, as (first, pages)."""
        end = first + pages
        # Every range that touches [first, end) is folded into one.
        low = bisect_left(self._ends, first)
        high = bisect_right(self._starts, end)
        covered = list(zip(self._starts[low:high], self._ends[low:high], strict=True))
        new_start = min([first, *(start for start, _ in covered)])
        new_end = max([end, *(stop for _, stop in covered)])
        self._starts[low:high] = [new_start]
        self._ends[low:high] = [new_end]
        return _gaps(first, end, covered)


def _gaps(first: int, end: int, covered: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    position = first
    for start, stop in covered:
        if start > position:
            yield position, min(start, end) - position
        position = max(position, stop)
        if position >= end:
            return
    yield position, end - position
