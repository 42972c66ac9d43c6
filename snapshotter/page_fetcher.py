"""Reads of memory that is not local, done by a pool so that a session's thread never waits.

A read through the mount returns when the fill worker has put verified bytes in place, or fails with
EIO for good. One read a page, however many threads of the process wait for it. Everything but the
read itself happens in the session's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from hotstart.core.span import PAGE
from snapshotter.address_space import AddressSpace
from snapshotter.memory_file import MemoryLost
from snapshotter.page_counters import PageCounters
from snapshotter.page_ranges import Piece
from snapshotter.wake_up import WakeUp

_FILLS_AT_ONCE = 4


class Pool(Protocol):
    """What is used of an executor."""

    def submit(self, function: Callable[[Fetched], None], fetched: Fetched, /) -> Future[None]:
        """Call the function in another thread."""


@dataclass(slots=True)
class Fetched:
    """A read, and which faults wait for its first page (none: it fills the background)."""

    space: AddressSpace
    offset: int
    length: int
    addresses: list[int] = field(default_factory=list)
    content: bytes | MemoryLost = b""


class PageFetcher:
    """The reads of one session; ``wake`` wakes its loop."""

    def __init__(self, pool: Pool, wake: WakeUp, counters: PageCounters) -> None:
        self._pool = pool
        self._wake = wake
        self._counters = counters
        self._done: deque[Fetched] = deque()
        self._under_way: dict[tuple[str, int, int], Fetched] = {}
        self._futures: set[Future[None]] = set()

    def fetch(self, space: AddressSpace, address: int, offset: int) -> None:
        """Read the page at ``offset`` for the fault at ``address``."""
        same = self._under_way.get((space.name, offset, PAGE))
        if same is not None:
            same.addresses.append(address)
            return
        self._counters.slow_reads += 1
        self._start(Fetched(space, offset, PAGE, [address]))

    def fill(self, space: AddressSpace, piece: Piece) -> bool:
        """Read a stretch that nobody waits for; False if enough is under way."""
        length = piece.end - piece.start
        fills = sum(not fetched.addresses for fetched in self._under_way.values())
        if fills >= _FILLS_AT_ONCE or (space.name, piece.offset, length) in self._under_way:
            return False
        self._start(Fetched(space, piece.offset, length))
        return fills + 1 < _FILLS_AT_ONCE

    def take(self) -> list[Fetched]:
        """Return the reads that have ended since the last call."""
        ended = []
        while self._done:
            fetched = self._done.popleft()
            del self._under_way[fetched.space.name, fetched.offset, fetched.length]
            ended.append(fetched)
        self._futures = {future for future in self._futures if not future.done()}
        return ended

    def wait(self) -> None:
        """Block until no read is under way any more; their results are dropped."""
        for future in self._futures:
            future.exception()
        self._futures.clear()

    def _start(self, fetched: Fetched) -> None:
        self._under_way[fetched.space.name, fetched.offset, fetched.length] = fetched
        self._futures.add(self._pool.submit(self._read, fetched))

    def _read(self, fetched: Fetched) -> None:
        started = time.monotonic()
        content = bytearray(fetched.length)
        try:
            fetched.space.memory.read_mounted(fetched.offset, memoryview(content))
            fetched.content = bytes(content)
        except MemoryLost as err:
            fetched.content = err
        if fetched.addresses:
            self._counters.stalled_ms += (time.monotonic() - started) * 1e3
        self._done.append(fetched)
        self._wake.ring()
