"""The working set: which pages of memory files a restored process touches first, in order.

Recordings of several golden requests are joined: the first one's order first, then what the others
add, each in its own order. Runs are joined into larger ones within short stretches of the order, so
that installing them takes few system calls and stays close to the order of use. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from hotstart.store.page_runs import PageSet, Run, coalesce

STRETCH_PAGES = 1024
"""Pages of the order that may be sorted among themselves: 4 MiB, milliseconds of an install."""

GAP_PAGES = 2


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


def bridge(order: Iterable[Run], gap_pages: int = GAP_PAGES) -> list[Run]:
    """Join runs that follow each other with at most ``gap_pages`` pages between them.

    Two pages too many cost less than one more system call: measured on a server's working set, 909
    runs in place of 1344 for 19 % more pages.
    """
    bridged: list[Run] = []
    for run in order:
        last = bridged[-1] if bridged else None
        if last and last.device == run.device and 0 <= run.first_page - last.end_page <= gap_pages:
            bridged[-1] = Run(last.device, last.first_page, run.end_page - last.first_page)
        else:
            bridged.append(run)
    return bridged
