"""A fault: somebody waits for a range of pages and must be answered exactly once.

The answer is a callback, not a blocked thread: readers may be thousands, threads are few. It is
called with None when every page is there, or with the error that the reader gets EIO for, from
whichever thread finished the last piece. It must be quick and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from hotstart.core.errors import Unavailable

if TYPE_CHECKING:
    from lazyfs.device import Device

Answer: TypeAlias = Callable[[BaseException | None], None]


@dataclass(slots=True, eq=False)
class Fault:
    """Pages that a reader waits for. ``pending`` counts pieces on their way, under the lock."""

    device: Device
    first_page: int
    pages: int
    answer: Answer
    since_s: float
    pending: int = 0
    settled: bool = False
    after: Unavailable | None = None
    """What failed since it last looked, and may pass."""

    @property
    def end_page(self) -> int:
        """First page after the range."""
        return self.first_page + self.pages

    def missing(self) -> int:
        """Return the first absent page of the range, or -1."""
        return self.device.ready.missing(self.first_page, self.pages)

    def missing_runs(self) -> list[tuple[int, int]]:
        """Return the absent runs of the range as (first page, end page)."""
        runs: list[tuple[int, int]] = []
        page = self.missing()
        while page >= 0:
            end = page + 1
            while end < self.end_page and self.device.ready.missing(end, 1) >= 0:
                end += 1
            runs.append((page, end))
            page = (
                self.device.ready.missing(end, self.end_page - end) if end < self.end_page else -1
            )
        return runs
