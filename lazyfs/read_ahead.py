"""Fetches ahead of the readers that streams.py finds, as many requests at a time as the link needs.

``note`` sees every access and does no I/O. What a reader wants next is looked up and queued by a
thread of the pool; threads take queued tasks, one reader after another, and each fetches, decodes,
verifies and writes its span by itself. Until one takes it a fault may claim what it needs of it,
and tasks for readers that are gone are dropped. Nobody waits for any of it and what fails is not
tried again, as with the surroundings of misses. Stored bytes in memory are bounded by what is
under way.

Behind a sequential reader the page cache's copy of the device file is dropped: with the mount's own
copy the bytes would be cached twice. Thread-safe.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial

from hotstart.core.errors import HotstartError
from hotstart.core.span import PAGE, Span
from lazyfs.claims import Claims
from lazyfs.device import Device
from lazyfs.link_estimate import MOST, LinkEstimate
from lazyfs.pieces import Task
from lazyfs.streams import Stream
from lazyfs.task_pool import TaskPool

LOOK_UPS = 2
"""Threads beside those that fetch, so that the next look-up never waits for a request."""
UNUSED_BUDGET_BYTES = 1 << 30
"""With more than this on a device that was brought unasked and not used since, none is added."""
LAG_BYTES, STEP_BYTES = 256 << 20, 32 << 20
"""How far behind a sequential reader, and in what steps, the device file's copy of what it has read
leaves the page cache: the mount's own copy stays. Late, since what is not on the disk yet has to be
written for it, which takes the cores from whoever reads a file no longer than this."""
FIRST_REQUEST_BYTES = 512 << 10
"""Of a reader that has just begun: many at a time, so that the first of them are soon there."""


class ReadAhead:
    """Runs ahead of readers; ``run`` is called in a thread with each claimed task."""

    def __init__(self, claims: Claims, run: Callable[[Task], None]) -> None:
        self._claims = claims
        self._run = run
        self._pool = TaskPool("ahead", MOST + LOOK_UPS)
        self._lock = threading.Lock()
        self._links: dict[str, LinkEstimate] = {}
        self._queues: OrderedDict[Stream, deque[Task]] = OrderedDict()
        self._running = 0

    def link(self, store_url: str) -> LinkEstimate:
        """Return what is known of the link to a store."""
        with self._lock:
            return self._links.setdefault(store_url, LinkEstimate())

    def note(self, device: Device, first_page: int, pages: int, *, missed: bool) -> None:
        """Take notice of an access, of pages that were absent if ``missed``. Doesn't block."""
        if device.complete:
            return
        access = Span(first_page * PAGE, pages * PAGE)
        read = None
        with device.streams_lock:
            limit = self.link(device.spec.store_url).window_bytes
            stream, spans = device.streams.note(access, limit, missed=missed)
            if stream is not None:
                read = device.streams.take_read(stream, LAG_BYTES, STEP_BYTES)
            retired = device.streams.take_retired()
        for one in retired:
            self._forget(one)
        if read is not None:
            self._pool.submit(partial(device.drop_cached, read, LAG_BYTES))
        if stream is not None and spans and device.usage.unused_bytes < UNUSED_BUDGET_BYTES:
            self._pool.submit(partial(self._queue, device, stream, spans))

    def close(self, *, wait: bool = True) -> None:
        """End the threads after what they fetch, and ``wait`` for that."""
        with self._lock:
            self._queues.clear()
        self._pool.close(wait=wait)

    def _queue(self, device: Device, stream: Stream, spans: Sequence[Span]) -> None:
        """Look up what lies in spans and queue what is absent and in nobody's hand."""
        if device.closed:
            return
        link = self.link(device.spec.store_url)
        with contextlib.suppress(HotstartError):  # the table's next part can't be read: so be it
            table = device.table()
            found = {chunk.device_offset: chunk for span in spans for chunk in table.between(span)}
            limit = min(link.request_bytes, max(FIRST_REQUEST_BYTES, stream.run // 4))
            tasks = self._claims.queue_unasked(device, found.values(), table.packs, limit=limit)
            with self._lock:
                self._queues.setdefault(stream, deque()).extend(tasks)
            self._start(link.in_flight)

    def _start(self, in_flight: int) -> None:
        """Have as many threads at work as there are tasks and the link needs."""
        with self._lock:
            queued = sum(map(len, self._queues.values()))
            more = min(queued, in_flight - self._running)
            self._running += max(0, more)
        for _ in range(more):
            self._pool.submit(self._work)

    def _work(self) -> None:
        """Run tasks while there are any and the link needs this thread."""
        while (task := self._next()) is not None:
            if self._claims.begin_task(task):
                self._run(task)

    def _next(self) -> Task | None:
        """Take the next reader's first task; None, counted off, if this thread should end."""
        with self._lock:
            while self._queues:
                stream, tasks = self._queues.popitem(last=False)
                if not tasks:
                    continue
                task = tasks.popleft()
                if tasks:
                    self._queues[stream] = tasks  # behind the others
                link = self._links.get(task.store_url)
                if link is None or self._running <= link.in_flight:
                    return task
                tasks.appendleft(task)
                self._queues[stream] = tasks
                break
            self._running -= 1
            return None

    def _forget(self, stream: Stream) -> None:
        """Drop what is queued for a reader that is gone."""
        with self._lock:
            tasks = self._queues.pop(stream, ())
        for task in tasks:
            self._claims.drop(task)
