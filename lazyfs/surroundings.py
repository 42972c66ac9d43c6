"""Fetches what lies around misses, in threads of its own, for nobody in particular.

A reader is never worse off for it: it waits for none of it; what fails is not tried again, and a
reader who had joined it looks for itself (fill_engine.py); and while enough is under way, the
surroundings of further misses are left alone. So they are in a stretch of which hardly anything is
read but the misses themselves: there each would keep the next one waiting. Thread-safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from hotstart.core.errors import HotstartError
from hotstart.core.span import PAGE, Span
from lazyfs.claims import Claims, Packs
from lazyfs.fault import Fault
from lazyfs.pieces import Task
from lazyfs.read_around import STRETCH_BYTES, ReadAround
from lazyfs.task_pool import TaskPool

THREADS = 4
UNFINISHED = 16
"""Requests and look-ups that may be under way or waiting; beyond them nothing is begun."""
REQUEST_BYTES = 1 << 20


class Surroundings:
    """Queues them; ``run`` is called in a thread with each task, which others may have taken."""

    def __init__(self, around: ReadAround, claims: Claims, run: Callable[[Task], None]) -> None:
        self._around = around
        self._claims = claims
        self._run = run
        self._pool = TaskPool("around", THREADS)

    def of(self, fault: Fault, packs: Packs) -> None:
        """Begin to fetch what lies around a miss, unless enough is under way. Doesn't block."""
        if self._pool.unfinished < UNFINISHED:
            self._pool.submit(partial(self._look_up, fault, packs))

    def close(self, *, wait: bool = True) -> None:
        """End the threads after what they fetch, and ``wait`` for that."""
        self._pool.close(wait=wait)

    def _look_up(self, fault: Fault, packs: Packs) -> None:
        device = fault.device
        if device.closed or device.short_of_space or self._pool.unfinished > UNFINISHED:
            return
        missed = Span(fault.first_page * PAGE, fault.pages * PAGE)
        stretch = missed.offset // STRETCH_BYTES * STRETCH_BYTES
        if device.usage.is_wasted(stretch // PAGE, STRETCH_BYTES // PAGE):
            return
        window = self._around.window(device.device_id, missed, device.spec.pages * PAGE)
        with contextlib.suppress(HotstartError):  # the table's next part can't be read: so be it
            for part in _likeliest_first(window, missed):
                if self._pool.unfinished > UNFINISHED:
                    return
                chunks = device.table().between(part)
                for task in self._claims.queue_unasked(device, chunks, packs):
                    self._pool.submit(partial(self._run, task))


def _likeliest_first(window: Span, missed: Span) -> Iterator[Span]:
    """Yield a window in parts: from the miss onward, then what lies before it, nearest first."""
    at = min(max(missed.offset, window.offset), window.end)
    yield from Span(at, window.end - at).split(REQUEST_BYTES)
    yield from reversed(list(Span(window.offset, at - window.offset).split(REQUEST_BYTES)))
