"""Single flight: who fetches which piece, and who waits for it. All state is under one lock.

A fault joins pieces that are on their way, claims queued bundle frames (their whole task), and
claims chunks that nobody fetches. Every claim is answered by ``end_pieces``, which hands back the
faults that waited. Nothing here does I/O or calls out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from hotstart.core.span import PAGE, pages_of
from hotstart.store.chunk_table import Chunk
from lazyfs.device import Device
from lazyfs.fault import Fault
from lazyfs.pieces import Piece, Purpose, Source, State, Target, Task, TaskEnd

Packs: TypeAlias = Sequence[Source]

DEMAND_BYTES = 1 << 20
"""Stored bytes that one request for a fault, or beside one, fetches at most; more are parallel."""
PREFETCH_BYTES = 4 << 20
"""Stored bytes of one prefetch request."""


class Claims:
    """The book of pieces on their way."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def join_frames(self, fault: Fault) -> tuple[list[Task], bool]:
        """Wait for the bundle frames of the fault's absent pages.

        Returns the tasks that the caller has claimed by it and must run, and whether pages are
        left that no frame brings.
        """
        with self.lock:
            if not fault.device.frames:
                return [], True
            claimed: list[Task] = []
            left = False
            for first, end in fault.missing_runs():
                left |= self._join_run(fault, first, end, claimed)
            return claimed, left

    def _join_run(self, fault: Fault, first: int, end: int, claimed: list[Task]) -> bool:
        left = False
        last: Piece | None = None
        for page in range(first, end):
            piece = fault.device.frame_at(page)
            if piece is None:
                left = True
            elif piece is not last:
                last = piece
                self._wait_for(fault, piece)
                task = piece.task
                if task is not None and task.state is State.QUEUED:
                    self._run(task)
                    claimed.append(task)
        return left

    def join_chunks(self, fault: Fault, chunks: Iterable[Chunk], packs: Packs) -> list[Task]:
        """Wait for the chunks of the fault's absent pages; return the tasks to run for it.

        A chunk that waits its turn in a prefetch task is taken out of it. One may come more than
        once: pages of it that a frame has brought lie between those that are absent.
        """
        with self.lock:
            fresh: list[tuple[Chunk, Piece]] = []
            for chunk in chunks:
                piece = fault.device.chunks.get(chunk.device_offset)
                if piece is None:
                    piece = self._new_chunk(fault.device, chunk)
                    if piece is None:
                        continue
                    fresh.append((chunk, piece))
                elif piece.state is State.QUEUED and piece.task is not None:
                    piece.task.pieces.remove(piece)
                    piece.task = None
                    fresh.append((chunk, piece))
                self._wait_for(fault, piece)
            tasks = self._tasks(fault.device, fresh, packs, Purpose.FAULT, DEMAND_BYTES)
            for task in tasks:
                task.first_try_s = fault.since_s  # its patience is the reader's
                self._run(task)
            return tasks

    def queue_chunks(
        self,
        device: Device,
        chunks: Iterable[Chunk],
        packs: Packs,
        purpose: Purpose = Purpose.PREFETCH,
    ) -> list[Task]:
        """Make queued tasks of what is absent, in order; what is on its way is there to follow.

        What nobody had asked for is wanted from now on, and tried again like all the rest.
        """
        with self.lock:
            fresh: list[tuple[Chunk, Piece]] = []
            known: dict[int, Task] = {}
            for chunk in chunks:
                piece = device.chunks.get(chunk.device_offset)
                if piece is not None and piece.task is not None:
                    known[id(piece.task)] = piece.task
                    if piece.task.purpose is Purpose.UNASKED:
                        piece.task.purpose = purpose
                    continue
                piece = self._new_chunk(device, chunk)
                if piece is not None:
                    fresh.append((chunk, piece))
            tasks = self._tasks(device, fresh, packs, purpose, PREFETCH_BYTES)
            return [*tasks, *known.values()]

    def queue_unasked(
        self,
        device: Device,
        chunks: Iterable[Chunk],
        packs: Packs,
        *,
        limit: int = DEMAND_BYTES,
    ) -> list[Task]:
        """Make queued tasks of what is absent and nobody has in hand; ``begin_task`` takes them.

        What the frames of a start bundle bring is in hand. A task has ``limit`` stored bytes at
        most, unless one chunk has more.
        """
        with self.lock:
            fresh = [
                (chunk, piece)
                for chunk in chunks
                if chunk.device_offset not in device.chunks
                and not _comes_in_frames(device, chunk)
                and (piece := self._new_chunk(device, chunk)) is not None
            ]
            return self._tasks(device, fresh, packs, Purpose.UNASKED, limit)

    def begin_task(self, task: Task) -> bool:
        """Take a queued task that nobody has taken, or emptied, meanwhile."""
        with self.lock:
            mine = task.state is State.QUEUED and bool(task.pieces)
            if mine:
                self._run(task)
            return mine

    def give_up(self, task: Task) -> list[Fault] | None:
        """End a task that nobody asked for; return the faults that waited for it.

        None if somebody asks for it by now: then it goes on.
        """
        with self.lock:
            if task.purpose is not Purpose.UNASKED:
                return None
            task.state = State.FAILED
            return [fault for piece in task.pieces for fault in self._end(piece, State.FAILED)]

    def drop(self, task: Task) -> None:
        """Take back a queued task that nobody has asked for or taken meanwhile."""
        with self.lock:
            if task.state is State.QUEUED and task.purpose is Purpose.UNASKED:
                task.state = State.FAILED
                for piece in task.pieces:  # one that a reader waits for has left the task
                    self._end(piece, State.FAILED)

    def claim_task(self, task: Task, ended: TaskEnd) -> tuple[bool, bool]:
        """Take a queued task: (it is the caller's to run, ``ended`` will be called for it).

        A task that somebody else runs is followed; one that is over, or empty, is not.
        """
        with self.lock:
            if task.state is State.RUNNING:
                task.ended.append(ended)
                return False, True
            if task.state is not State.QUEUED or not task.pieces:
                return False, False
            task.ended.append(ended)
            self._run(task)
            return True, True

    def end_task(self, task: Task, state: State) -> list[TaskEnd]:
        """Note that a task is over; return who wants to know."""
        with self.lock:
            task.state = state
            return task.ended

    def end_pieces(self, pieces: Iterable[Piece], state: State) -> list[Fault]:
        """Note that pieces are done or have failed; return the faults that waited for them."""
        with self.lock:
            return [fault for piece in pieces for fault in self._end(piece, state)]

    def hold(self, fault: Fault) -> None:
        """Keep a fault from settling while its pieces are being looked up."""
        with self.lock:
            fault.pending += 1

    def release(self, fault: Fault) -> bool:
        """Undo one hold or wait; True when nothing is pending and the fault is not settled."""
        with self.lock:
            fault.pending -= 1
            return fault.pending == 0 and not fault.settled

    def settle(self, fault: Fault) -> bool:
        """Return True to exactly one caller: the one that answers the fault."""
        with self.lock:
            first, fault.settled = not fault.settled, True
            return first

    def _wait_for(self, fault: Fault, piece: Piece) -> None:
        piece.waiters.append(fault)
        fault.pending += 1

    def _end(self, piece: Piece, state: State) -> list[Fault]:
        piece.state = state
        if piece.key is not None:
            device, offset = piece.key
            device.chunks.pop(offset, None)
        waiters, piece.waiters = piece.waiters, []
        return waiters

    def _run(self, task: Task) -> None:
        task.state = State.RUNNING
        for piece in task.pieces:
            piece.state = State.RUNNING

    def _new_chunk(self, device: Device, chunk: Chunk) -> Piece | None:
        """Return the piece of an absent chunk, known to others from now on; None if it's there."""
        first, pages = chunk.device_offset // PAGE, (chunk.length + PAGE - 1) // PAGE
        target = Target(device, first, pages)
        if not target.missing():
            return None
        piece = Piece(
            offset=chunk.pack_offset,
            stored_length=chunk.stored_length,
            length=chunk.length,
            raw=chunk.raw,
            digest=chunk.digest,
            targets=(target,),
            key=(device, chunk.device_offset),
        )
        device.chunks[chunk.device_offset] = piece
        return piece

    def _tasks(
        self,
        device: Device,
        fresh: list[tuple[Chunk, Piece]],
        packs: Packs,
        purpose: Purpose,
        limit: int,
    ) -> list[Task]:
        """Make tasks of pieces that lie end to end in one pack, of bounded size each."""
        tasks: list[Task] = []
        last_pack = -1
        for chunk, piece in fresh:
            task = tasks[-1] if tasks else None
            if (
                task is not None
                and chunk.pack == last_pack
                and task.pieces[-1].end == piece.offset
                and piece.end - task.pieces[0].offset <= limit
            ):
                task.pieces.append(piece)
                piece.task = task
            else:
                pack = packs[chunk.pack]
                tasks.append(Task(device.spec.store_url, pack, [piece], purpose=purpose))
            last_pack = chunk.pack
        return tasks


def _comes_in_frames(device: Device, chunk: Chunk) -> bool:
    """Tell whether frames on their way fill every absent page of a chunk. Under the lock."""
    if not device.frames:
        return False
    first = chunk.device_offset // PAGE
    return all(
        device.frame_at(page) is not None or device.ready.missing(page, 1) < 0
        for page in range(first, first + pages_of(chunk.length))
    )
