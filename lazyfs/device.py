"""A device as the fill side sees it: its open file, ready map, chunk table, and what is on its way.

Owns the descriptor it is given and the ready map; ``close`` ends both. The descriptor must have
been opened for writing before any fanotify mark was set on the file, else each write would raise
an event that only the writer could answer. ``chunks`` and ``frames`` change under the engine's
lock. The chunk table is opened at the first miss: a start must not wait for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hotstart.core.errors import HotstartError
from hotstart.core.span import PAGE, Span
from hotstart.store.ready_map import ReadyMap
from lazyfs.device_counters import DeviceCounters
from lazyfs.object_table import ObjectTable, Table
from lazyfs.pieces import Piece, State, Target
from lazyfs.prefetch_usage import PrefetchUsage
from lazyfs.room import Room
from lazyfs.spec import DeviceSpec
from lazyfs.streams import Streams


class DeviceClosed(HotstartError):
    """A device was let go while something was being fetched for it; nobody misses it."""

    def __init__(self, device_id: str) -> None:
        super().__init__(f"device {device_id[:12]} is served no more")
        self.device_id = device_id


class FrameMap:
    """Which frame of one start bundle fills a page of one device."""

    def __init__(self, frames: Iterable[tuple[Target, Piece]]) -> None:
        self._frames = sorted(frames, key=lambda frame: frame[0].first_page)
        self._starts = [target.first_page for target, _ in self._frames]

    def at(self, page: int) -> Piece | None:
        """Return the frame that fills ``page`` and may still come, or None."""
        index = bisect_right(self._starts, page) - 1
        if index < 0:
            return None
        target, piece = self._frames[index]
        if page >= target.first_page + target.pages:
            return None
        return piece if piece.state in (State.QUEUED, State.RUNNING) else None


class Device:
    """One device that can be filled. Takes over ``fd`` and ``ready``."""

    def __init__(
        self,
        spec: DeviceSpec,
        fd: int,
        ready: ReadyMap,
        open_table: Callable[[DeviceSpec], Table],
        room: Room | None = None,
    ) -> None:
        """``room`` is made for what is written; without one a full disk is final."""
        self.spec = spec
        self.fd = fd
        self.ready = ready
        self.usage = PrefetchUsage(spec.pages)
        self.counters = DeviceCounters(self.usage)
        self.streams = Streams(spec.pages * PAGE)
        self.streams_lock = threading.Lock()
        self.chunks: dict[int, Piece] = {}
        self.frames: list[FrameMap] = []
        self.first_missing = 0
        self.complete = ready.complete
        self._open_table = open_table
        self._room = room if room is not None else Room()
        self._table: Table | None = None
        self._table_lock = threading.Lock()
        self._syncing = threading.Lock()
        self._use = threading.Condition()
        self._users = 0
        self._closed = False

    @property
    def device_id(self) -> str:
        """The device's name."""
        return self.spec.device_id

    def table(self) -> Table:
        """Return the chunk table, reading it at the first call. Raises what the store raises."""
        with self._table_lock:
            if self._table is None:
                self._table = self._open_table(self.spec)
            return self._table

    def preload_table(self) -> None:
        """Read the chunk table ahead of the first miss; failures wait for that miss."""
        with contextlib.suppress(HotstartError):
            self.table()

    def frame_at(self, page: int) -> Piece | None:
        """Return the bundle frame on its way that fills ``page``. Under the engine's lock."""
        for frames in self.frames:
            piece = frames.at(page)
            if piece is not None:
                return piece
        return None

    def fill(
        self, first_page: int, parts: Sequence[memoryview], written: Callable[[], None]
    ) -> None:
        """Write verified bytes, end to end; call ``written``; only then mark the pages ready.

        Raises DiskFull, and DeviceClosed; the number of a closed descriptor may name another file
        already.
        """
        with self._use:
            if self._closed:
                raise DeviceClosed(self.device_id)
            self._users += 1
        try:
            length = sum(map(len, parts))
            write = partial(self.write, first_page, parts)
            self._room.attempt(write, self.fd, length)
            written()
            self.mark_ready(first_page, length // PAGE)
        finally:
            with self._use:
                self._users -= 1
                self._use.notify_all()

    def mark_ready(self, first_page: int, pages: int) -> None:
        """Declare pages ready: written and verified, or a hole. Raises DiskFull."""
        self._room.attempt(partial(self.ready.set, first_page, pages), self.fd, 0)

    def write(self, first_page: int, parts: Sequence[memoryview]) -> None:
        """Write bytes from a page on; for ``fill`` alone."""
        left, offset = [part for part in parts if part], first_page * PAGE
        while left:
            done = os.pwritev(self.fd, left, offset)
            offset += done
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]

    def drop_cached(self, read: Span, lag_bytes: int) -> None:
        """Let the page cache forget the file's copy of what a reader has in the mount's cache.

        The kernel drops what is on disk and begins to write what is not: that is dropped with one
        of the next spans, which reaches ``lag_bytes`` back.
        """
        begin = max(0, read.offset - lag_bytes)
        with self._use:
            if self._closed:
                return
            self._users += 1
        try:
            os.posix_fadvise(self.fd, begin, read.end - begin, os.POSIX_FADV_DONTNEED)
        finally:
            with self._use:
                self._users -= 1
                self._use.notify_all()

    def all_ready(self) -> bool:
        """Tell whether every page is there; cheap to ask often, it goes on where it stopped."""
        if self.first_missing < 0:
            return True
        left = self.spec.pages - self.first_missing
        self.first_missing = self.ready.missing(self.first_missing, left) if left > 0 else -1
        return self.first_missing < 0

    def sync(self) -> None:
        """Put data and ready map on disk, so that they are believed after a power loss."""
        with self._syncing, contextlib.suppress(OSError):  # a full or failing disk: not believed
            if not self._closed:
                if isinstance(self._table, ObjectTable):
                    self._table.sync()  # what it vouches for must not be believed without it
                self.ready.sync(self.fd)

    @property
    def closed(self) -> bool:
        """Whether nobody reads the device any more, so that nothing is worth fetching for it."""
        return self._closed

    @property
    def short_of_space(self) -> bool:
        """Whether the disk was full a moment ago, so that nothing is fetched that nobody misses."""
        return self._room.was_short

    def close(self) -> None:
        """Close the file and the ready map, after the writes and the sync that are under way."""
        with self._use:
            self._closed = True
            while self._users:
                self._use.wait()
        with self._syncing:
            self.ready.close()
            if isinstance(self._table, ObjectTable):
                self._table.close()
            os.close(self.fd)
