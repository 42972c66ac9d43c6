"""Pieces and tasks: what is fetched and verified as one, and what is fetched by one request.

A *piece* is a chunk or a frame of a start bundle: stored bytes with one digest that fill one or
more runs of pages. A *task* is a range of one blob that holds one or more pieces end to end; it is
run by one thread. Single flight is per piece: whoever needs a page whose piece is on its way waits
for that piece.

All states change under the engine's lock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from hotstart.core.digest import ChunkDigest, Digest
from hotstart.core.span import PAGE, Span
from hotstart.store.pinned_object import PinnedObject

if TYPE_CHECKING:
    from lazyfs.device import Device
    from lazyfs.fault import Fault


Source: TypeAlias = Digest | PinnedObject
"""What a range is read of: a blob of a store, or an object of a bucket of weights."""

TaskEnd: TypeAlias = "Callable[[Task, BaseException | None], None]"


class State(enum.Enum):
    """Where a piece or task stands. QUEUED ones may be claimed by anybody."""

    QUEUED = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4


class Purpose(enum.Enum):
    """What a task was made for, and so what its failure means.

    FAULT: its readers fail with it. PREFETCH: tried again as long; readers who joined it then look
    for themselves. PULL: likewise, but what a person asked for as a whole is no guess, and not
    counted as one. UNASKED: surroundings and read-ahead; tried once; readers likewise.
    """

    FAULT = 1
    PREFETCH = 2
    UNASKED = 3
    PULL = 4


class Target:
    """A run of pages that a piece fills with its bytes from ``offset`` on."""

    __slots__ = ("device", "first_page", "offset", "pages")

    def __init__(self, device: Device, first_page: int, pages: int, offset: int = 0) -> None:
        self.device = device
        self.first_page = first_page
        self.pages = pages
        self.offset = offset

    def missing(self) -> bool:
        """Tell whether any page of the run is absent."""
        return self.device.ready.missing(self.first_page, self.pages) >= 0


@dataclass(slots=True, eq=False)
class Piece:
    """A chunk or bundle frame. ``offset`` is its place in the blob, lengths are in bytes."""

    offset: int
    stored_length: int
    length: int
    raw: bool
    digest: ChunkDigest
    targets: tuple[Target, ...]
    key: tuple[Device, int] | None = None
    """Of a chunk: its device and its first byte there, under which others find it."""
    state: State = State.QUEUED
    waiters: list[Fault] = field(default_factory=list)
    task: Task | None = None

    @property
    def end(self) -> int:
        """First byte after the piece in its blob."""
        return self.offset + self.stored_length

    def missing(self) -> bool:
        """Tell whether any page that the piece fills is absent."""
        return any(target.missing() for target in self.targets)


@dataclass(slots=True, eq=False)
class Task:
    """Pieces that lie end to end in ``blob``, fetched from the store at ``store_url`` at once."""

    store_url: str
    blob: Source
    pieces: list[Piece]
    from_bundle: bool = False
    purpose: Purpose = Purpose.PREFETCH
    state: State = State.QUEUED
    attempts: int = 0
    first_try_s: float = 0.0
    ended: list[TaskEnd] = field(default_factory=list)
    """Called once each, by the thread that ran the task last, with what it failed of."""

    def __post_init__(self) -> None:
        for piece in self.pieces:
            piece.task = self

    @property
    def span(self) -> Span:
        """The bytes of the blob that the task needs."""
        start = self.pieces[0].offset
        return Span(start, self.pieces[-1].end - start)


def page_run(offset: int, length: int) -> tuple[int, int]:
    """Return the first page and the number of pages that hold ``length`` bytes at ``offset``."""
    first = offset // PAGE
    return first, max(1, (offset + length + PAGE - 1) // PAGE - first)


RUN_BYTES = 512 << 10
"""What is written at once: a reader of a run's first page waits for no more than this."""


def in_runs(task: Task) -> Iterator[list[Piece]]:
    """Yield a task's pieces in runs that can be written at once: absent, and end to end.

    A piece of several targets, or one whose pages are there by now, is a run of its own.
    """
    run: list[Piece] = []
    length = 0
    for piece in task.pieces:
        follows = bool(run) and _follows(run[-1], piece) and length + piece.length <= RUN_BYTES
        if run and not follows:
            yield run
            run, length = [], 0
        run.append(piece)
        length += piece.length
    if run:
        yield run


def _follows(last: Piece, piece: Piece) -> bool:
    """Tell whether two chunks lie end to end on their device, and both are absent."""
    if last.key is None or piece.key is None or last.key[0] is not piece.key[0]:
        return False
    end_to_end = last.key[1] + last.length == piece.key[1]
    return end_to_end and last.missing() and piece.missing()
