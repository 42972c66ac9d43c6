"""The working set: which pages of memory files a restored process touches first, in order.

Recordings of several golden requests are joined: the first one's order first, then what the others
add, each in its own order. Runs are joined into larger ones within short stretches of the order, so
that installing them takes few system calls and stays close to the order of use. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from hotstart.store.page_runs import PageSet, Run, coalesce

STRETCH_PAGES = 256
"""Pages of the order that may be sorted among themselves: about 1 MiB, a frame's worth."""


def union(recordings: Iterable[Sequence[Run]]) -> list[Run]:
    """Return every page of the recordings once, at its first place."""
    seen: dict[int, PageSet] = {}
    order: list[Run] = []
    for recording in recordings:
        for run in recording:
            pages = seen.setdefault(run.device, PageSet())
            order += [Run(run.device, *new) for new in pages.add(run.first_page, run.pages)]
    return order


def stretches(order: Iterable[Run], pages: int = STRETCH_PAGES) -> list[Run]:
    """Return the runs with neighbours joined, each stretch of about ``pages`` pages sorted."""
    joined: list[Run] = []
    pieces = (Run(r.device, page, 1) for r in order for page in range(r.first_page, r.end_page))
    while stretch := list(islice(pieces, pages)):
        joined += coalesce(stretch)
    return joined
