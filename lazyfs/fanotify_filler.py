"""The fanotify side of the fill worker: events in, faults to the engine, answers out.

One thread waits on every group. It reads one event at a time straight into a free slot of that
set's journal; what is ready is answered at once, the rest is answered by whichever thread fills
it. The order is respond, clear the slot, close the event descriptor.

Taking over from a killed worker: every slot that is not clear is answered first, by event number,
before the group is read (a new event could get the number of an old one). Only that device waits.

This process never maps or opens anything below the mounts it fills.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from functools import partial
from typing import Protocol

from hotstart.core.log import get_logger
from hotstart.kernel import fanotify
from lazyfs.crash_points import CrashPoint, Passage, no_crash
from lazyfs.device import Device
from lazyfs.disk_space import errno_for_reader
from lazyfs.fault import Fault
from lazyfs.fill_engine import FillEngine
from lazyfs.journal import Journal
from lazyfs.pieces import page_run
from lazyfs.task_pool import run_logged
from lazyfs.touches import TouchLog

log = get_logger(__name__)

MAX_EVENT_BYTES = 1 << 30
"""A longer event is the kernel's word for "until the end"; it is cut at the device's end."""


class Watched(Protocol):
    """A group that the dispatcher reads."""

    group: int

    def take_over(self, reading: Reading) -> None:
        """Answer what a predecessor left; call ``reading(True)`` when the group may be read."""

    def serve(self) -> None:
        """Read and handle one event."""

    def close(self) -> None:
        """Close the descriptors of this process; the keeper's copies stay."""


class Reading(Protocol):
    """Tells the dispatcher to read a group, or to leave it alone for now."""

    def __call__(self, on: bool, /) -> None: ...


class DeviceSet:
    """One device with a group and its journal."""

    def __init__(
        self,
        device: Device,
        group: int,
        journal_fd: int,
        engine: FillEngine,
        passage: Passage = no_crash,
        *,
        owns_device: bool = True,
    ) -> None:
        """Take over group and journal; and the device, unless it is another set's."""
        self._owns_device = owns_device
        self.device = device
        self.group = group
        self.journal = Journal(journal_fd)
        self.touches = TouchLog()
        self._journal_fd = journal_fd
        self._engine = engine
        self._passage = passage
        self._reading: Reading = _nothing
        self._starved = False
        self._closed = False
        self._left_behind = 0
        self._lock = threading.Lock()

    def take_over(self, reading: Reading) -> None:
        """Answer every event that a killed predecessor had read; then let the group be read."""
        self._reading = reading
        slots = list(self.journal.pending())
        self._left_behind = len(slots)
        for slot in slots:
            self.device.counters.answered_for_predecessor += 1
            self._handle(slot, self._answer_left_behind)
        if not slots:
            reading(True)

    def serve(self) -> None:
        """Read one event and answer it now or later."""
        if not self.journal.free and self._starve():
            return
        slot = self.journal.free.pop()
        if not self._read(slot):
            self.journal.free.append(slot)
            return
        self._passage(CrashPoint.EVENT_READ)
        self.device.counters.faults += 1
        self._handle(slot, self._answer)

    def _read(self, slot: int) -> bool:
        try:
            return fanotify.read_event(self.group, self.journal.slot(slot))
        except OSError as err:
            # EMFILE: that event is lost and its reader failed; the limit is raised at start.
            log.warning("event_lost", device=self.device.device_id, error=str(err))
            return False

    def _starve(self) -> bool:
        """Read no more until a slot is given back; False if one has been meanwhile."""
        with self._lock:
            if self.journal.free:
                return False
            self._starved = True
            self._reading(False)
            return True

    def _handle(self, slot: int, answer: _AnswerSlot) -> None:
        view = self.journal.slot(slot)
        event_fd = fanotify.event_fd_of(view)
        try:
            event = fanotify.decode(view)
            first, pages = page_run(event.offset, min(event.length, MAX_EVENT_BYTES))
            pages = min(pages, self.device.spec.pages - first)
            if self.touches.active:
                self.touches.add(first, pages)
            absent = pages > 0 and self.device.ready.missing(first, pages) >= 0
            if pages > 0 and not self.device.complete:  # what follows is only recorded
                self._engine.accessed(self.device, first, pages, missed=absent)
        except Exception as err:  # whatever it is, the reader must be answered
            log.warning("event_refused", device=self.device.device_id, error=str(err))
            answer(slot, event_fd, err)
            return
        if not absent:
            answer(slot, event_fd, None)
            return
        self.device.counters.misses += 1
        reply = partial(answer, slot, event_fd)
        self._engine.request(Fault(self.device, first, pages, reply, time.monotonic()))

    def _answer(self, slot: int, event_fd: int, error: BaseException | None) -> None:
        with self._lock:
            if not self._closed:
                self._respond(event_fd, error)
                self._passage(CrashPoint.ANSWERED)
                self.journal.clear(slot)
                self._passage(CrashPoint.SLOT_CLEARED)
                if self._starved:
                    self._starved = False
                    self._reading(True)
        os.close(event_fd)

    def _answer_left_behind(self, slot: int, event_fd: int, error: BaseException | None) -> None:
        """The number is the predecessor's: here it may name anything, so nothing is closed."""
        with self._lock:
            if self._closed:
                return
            self._respond(event_fd, error)
            self._passage(CrashPoint.LEFT_BEHIND_ANSWERED)
            self.journal.clear(slot)
            self._passage(CrashPoint.LEFT_BEHIND_CLEARED)
            self._left_behind -= 1
            if self._left_behind == 0:
                self._reading(True)

    def _respond(self, event_fd: int, error: BaseException | None) -> None:
        try:
            if error is None:
                fanotify.allow(self.group, event_fd)
            else:
                fanotify.deny(self.group, event_fd, errno_for_reader(error))
        except OSError as err:
            log.warning("answer_failed", device=self.device.device_id, error=str(err))

    def close(self) -> None:
        """Close this process's copies. Answers that come later find nobody waiting."""
        with self._lock:
            self._closed = True
            self.journal.close()
            os.close(self._journal_fd)
            os.close(self.group)
        if self._owns_device:
            self.device.close()


class _AnswerSlot(Protocol):
    def __call__(self, slot: int, event_fd: int, error: BaseException | None, /) -> None: ...


def _nothing(_: bool, /) -> None:
    return None


class Dispatcher:
    """The thread that reads groups. Sets may be added and removed from any thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sets: dict[int, Watched] = {}
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    def add(self, watched: Watched) -> None:
        """Begin to serve a set: first what a predecessor left, then its group."""
        with self._lock:
            self._sets[watched.group] = watched
            self._epoll.register(watched.group, 0)
        watched.take_over(partial(self._read_group, watched.group))

    def remove(self, watched: Watched) -> None:
        """Stop serving and close a set that nobody reads any more."""
        with self._lock:
            del self._sets[watched.group]
            self._epoll.unregister(watched.group)
        watched.close()  # may wait for the disk, which the misses of other sets must not

    def _read_group(self, group: int, on: bool) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):  # removed meanwhile
            self._epoll.modify(group, select.EPOLLIN if on else 0)

    def _run(self) -> None:
        while not self._stopping:
            for fd, _ in self._epoll.poll():
                # Under the lock: a set is closed only after it has been taken out.
                with self._lock:
                    watched = self._sets.get(fd)
                    if watched is not None:
                        run_logged(watched.serve)

    def close(self) -> None:
        """End the thread and close every set."""
        self._stopping = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        for watched in list(self._sets.values()):
            self.remove(watched)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
