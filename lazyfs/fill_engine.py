"""The fill engine: faults in, verified bytes on the device, every fault answered exactly once.

``request`` never blocks and does no I/O: a fault waits as a callback on the pieces that bring its
pages (claims.py keeps that book). Demand fetches run in a pool of their own and never queue behind
prefetch; prefetchers ``give_way`` before they take another task.

Failures: what may pass (Unavailable) is tried again with backoff until ``patience_s`` after the
reader came; everything else, and what has not passed by then, fails the piece: its readers get
EIO (ENOSPC for a full disk, see room.py), one line is logged, and a later read starts from the
beginning. A reader who had joined what was fetched for somebody else (a frame of a start bundle, a
prefetch, the surroundings of a miss), or who came later than the one for whom it was fetched, looks
for itself instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from hotstart.core.errors import IntegrityError, Unavailable
from hotstart.core.log import get_logger
from hotstart.core.span import PAGE, Span
from hotstart.store.chunk_table import Chunk
from hotstart.store.retrying import jittered_s
from lazyfs.claims import Claims, Packs
from lazyfs.device import Device, DeviceClosed
from lazyfs.disk_space import is_full
from lazyfs.fault import Fault
from lazyfs.fetcher import Fetcher
from lazyfs.holes import note_holes
from lazyfs.object_table import Table
from lazyfs.pieces import Piece, Purpose, State, Task, in_runs
from lazyfs.quarantine import ChunkQuarantined
from lazyfs.read_ahead import ReadAhead
from lazyfs.read_around import ReadAround
from lazyfs.reader_failures import ReaderFailures
from lazyfs.surroundings import Surroundings
from lazyfs.task_pool import TaskPool, run_logged

log = get_logger(__name__)

PATIENCE_S = 90.0
"""A store may be away for a minute, and be asked again some seconds after it is back."""
DEMAND_THREADS = 16
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.05, 2.0
PREFETCH_BESIDE_FAULTS = 4
"""Prefetch tasks that may run while a fault is being fetched."""
GIVE_WAY_S = 0.1


class FillEngine:
    """Fills devices. ``on_complete`` is called once for each device that misses nothing more."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        patience_s: float = PATIENCE_S,
        on_complete: Callable[[Device], None] | None = None,
        around: ReadAround | None = None,
        read_ahead: bool = False,
    ) -> None:
        """``around`` says what to fetch beside a miss; None: nothing.

        ``read_ahead``: whether to fetch ahead of readers that go through a device.
        """
        self.claims = Claims()
        self.demand = TaskPool("demand", DEMAND_THREADS)
        self.failures = ReaderFailures()
        self._fetcher = fetcher
        self._patience_s = patience_s
        self._on_complete = on_complete
        self._surroundings: Surroundings | None = None
        if around is not None:
            self._surroundings = Surroundings(around, self.claims, self._run_beside)
        self._ahead = ReadAhead(self.claims, self._run_ahead) if read_ahead else None
        self._demanded = 0
        self._prefetching = 0
        self._calm = threading.Condition(self.claims.lock)

    def accessed(self, device: Device, first_page: int, pages: int, *, missed: bool) -> None:
        """Learn that somebody reads pages, of which some are absent if ``missed``. Doesn't block.

        Before ``request`` for what is absent.
        """
        device.usage.read(first_page, pages)
        if self._ahead is not None:
            # What comes with a start bundle is no reason to fetch what lies behind it.
            self._ahead.note(device, first_page, pages, missed=missed and not device.frames)

    def request(self, fault: Fault) -> None:
        """Answer the fault when its pages are there, now or later. Doesn't block."""
        self.claims.hold(fault)
        claimed, left = self.claims.join_frames(fault)
        for task in claimed:
            self._submit_demand(task, fault)
        if left and fault.missing() >= 0:
            self.demand.submit(partial(self._look_up, fault))
        else:
            self._release(fault)

    def close(self, *, wait: bool = True) -> None:
        """End the threads. Faults that wait stay unanswered: a successor finds them.

        Without ``wait`` threads that are in a store end when it answers, or with the process.
        """
        self.demand.close(wait=wait)
        if self._surroundings is not None:
            self._surroundings.close(wait=wait)
        if self._ahead is not None:
            self._ahead.close(wait=wait)

    def _look_up(self, fault: Fault) -> None:
        """Find the chunks of a fault's absent pages and fetch those that nobody fetches."""
        device = fault.device
        try:
            spans = [Span(a * PAGE, (b - a) * PAGE) for a, b in fault.missing_runs()]
            table, found = _chunks_of(device, spans)
        except Unavailable as err:
            self._look_up_again(fault, err)
        except Exception as err:  # whatever it is, the reader must be answered
            self._fail(fault, err)
        else:
            try:
                for span, chunks in zip(spans, found, strict=True):
                    note_holes(device, span, chunks)
                self._fetch_for(fault, [chunk for chunks in found for chunk in chunks], table.packs)
            except Exception as err:  # likewise
                self._fail(fault, err)
            self._release(fault)

    def _fetch_for(self, fault: Fault, chunks: list[Chunk], packs: Packs) -> None:
        """Run one task in this thread and the others beside it."""
        tasks = self.claims.join_chunks(fault, chunks, packs)
        for task in tasks[1:]:
            self._submit_demand(task, fault)
        if tasks:
            self._count_demand(tasks[0], fault)
            if self._surroundings is not None:
                self._surroundings.of(fault, packs)
            self._run_demand(tasks[0])

    def _run_ahead(self, task: Task) -> None:
        self.give_way()
        self.run_prefetch(task)

    def _run_beside(self, task: Task) -> None:
        self.give_way()
        if self.claims.begin_task(task):
            self.run_prefetch(task)

    def _look_up_again(self, fault: Fault, err: Unavailable) -> None:
        if not self._is_patient(fault.since_s):
            self._fail(fault, err)
            return
        fault.device.counters.retries += 1
        waited_s = time.monotonic() - fault.since_s
        delay_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, waited_s / 2))
        self.demand.later(jittered_s(delay_s), partial(self._look_up, fault))

    def _submit_demand(self, task: Task, fault: Fault) -> None:
        self._count_demand(task, fault)
        self.demand.submit(partial(self._run_demand, task))

    def _count_demand(self, task: Task, fault: Fault) -> None:
        fault.device.counters.demand_requests += 1
        if not task.from_bundle:
            with self.claims.lock:
                self._demanded += 1

    def _run_demand(self, task: Task) -> None:
        self.run(task)
        if not task.from_bundle:
            with self.claims.lock:
                self._demanded -= 1
                if self._demanded == 0:
                    self._calm.notify_all()

    def give_way(self) -> None:
        """Let a prefetcher wait, briefly, while faults are being fetched and enough others run."""
        with self.claims.lock:
            if self._demanded > 0 and self._prefetching >= PREFETCH_BESIDE_FAULTS:
                self._calm.wait(GIVE_WAY_S)

    def run_prefetch(self, task: Task) -> None:
        """Run a claimed task that nobody may be waiting for."""
        with self.claims.lock:
            self._prefetching += 1
        try:
            self.run(task)
        finally:
            with self.claims.lock:
                self._prefetching -= 1

    def run(self, task: Task) -> None:
        """Fetch and fill a claimed task; tried again later, by another thread, if that may help."""
        task.first_try_s = task.first_try_s or time.monotonic()
        try:
            _refuse_closed(task)
            view = self._fetch(task)
        except Unavailable as err:
            if self._gave_up(task):
                return
            if self._is_patient(task.first_try_s):
                self._run_again(task)
            else:
                self._end_task(task, err)
        except Exception as err:  # whatever it is, readers must be answered
            self._end_task(task, err)
        else:
            self._fill(task, view)

    def _gave_up(self, task: Task) -> bool:
        """Leave a task that nobody asked for; whoever has joined it looks for itself at once."""
        joined = self.claims.give_up(task)
        for fault in joined or ():
            self._release(fault)
        return joined is not None

    def _is_patient(self, since_s: float) -> bool:
        return time.monotonic() - since_s < self._patience_s

    def _run_again(self, task: Task) -> None:
        delay_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**task.attempts)
        task.attempts += 1
        task.pieces[0].targets[0].device.counters.retries += 1
        self.demand.later(jittered_s(delay_s), partial(self.run, task))

    def _fetch(self, task: Task) -> memoryview:
        began_s = time.monotonic()
        view = self._fetcher.fetch(task)
        if self._ahead is not None:
            self._ahead.link(task.store_url).note(len(view), time.monotonic() - began_s)
        with self.claims.lock:
            task.pieces[0].targets[0].device.counters.requests += 1
            for piece in task.pieces:
                piece.targets[0].device.counters.fetched_bytes += piece.stored_length
        return view

    def _fill(self, task: Task, view: memoryview) -> None:
        start = task.pieces[0].offset
        first_error: BaseException | None = None
        for batch in in_runs(task):
            stored = [view[piece.offset - start : piece.end - start] for piece in batch]
            error = self._fill_batch(task, batch, stored)
            first_error = first_error or error
        self._end_task(task, first_error)

    def _fill_batch(
        self, task: Task, pieces: list[Piece], stored: list[memoryview]
    ) -> BaseException | None:
        """Fill pieces that lie end to end on a device, or one piece; return what they failed of."""
        try:
            self._fill_run(task, pieces, stored)
        except Exception as err:  # whatever it is, readers must be answered
            if len(pieces) > 1:  # by themselves, so that the good ones are filled
                errors = [
                    self._fill_batch(task, [piece], [one])
                    for piece, one in zip(pieces, stored, strict=True)
                ]
                return next((error for error in errors if error is not None), None)
            self._end_pieces(task, pieces, err)
            return err
        self._end_pieces(task, pieces, None)
        return None

    def _fill_run(self, task: Task, pieces: list[Piece], stored: list[memoryview]) -> None:
        if len(pieces) == 1:
            if pieces[0].missing():
                self._fetcher.fill(task, pieces[0], stored[0])
        else:
            contents = [
                memoryview(self._fetcher.verified(task, piece, one))
                for piece, one in zip(pieces, stored, strict=True)
            ]
            self._fetcher.write(pieces[0].targets[0], contents)
        if task.purpose in _GUESSES:
            for target in (target for piece in pieces for target in piece.targets):
                target.device.usage.brought(target.first_page, target.pages)

    def _end_task(self, task: Task, error: BaseException | None) -> None:
        left = [piece for piece in task.pieces if piece.state is State.RUNNING]
        if left:
            self._end_pieces(task, left, error)
        ended = self.claims.end_task(task, State.FAILED if error is not None else State.DONE)
        if error is not None and not isinstance(error, DeviceClosed | ChunkQuarantined):
            _log_failed(task, error)
        for device in {target.device for piece in task.pieces for target in piece.targets}:
            if not device.closed:
                self.check_complete(device)
        for tell in ended:
            tell(task, error)

    def _end_pieces(self, task: Task, pieces: list[Piece], error: BaseException | None) -> None:
        state = State.DONE if error is None else State.FAILED
        waiters = self.claims.end_pieces(pieces, state)
        may_pass = error if isinstance(error, Unavailable) else None
        for fault in waiters:
            # What a full disk does to somebody else's fetch it does to the reader's own.
            others = task.purpose is not Purpose.FAULT and not (error and is_full(error))
            if error is None or others:
                self._release(fault)
            elif may_pass is not None and self._is_patient(fault.since_s):
                self._release(fault, after=may_pass)
            else:
                self._fail(fault, error, logged=True)
                self._release(fault)

    def _release(self, fault: Fault, *, after: Unavailable | None = None) -> None:
        """One thing less to wait for; the last one answers, or looks for what is still absent.

        ``after`` a failure that may pass it looks a little later, whichever of its things is last.
        """
        if after is not None:
            fault.after = after
        if not self.claims.release(fault):
            return
        after, fault.after = fault.after, None
        if fault.missing() < 0:
            if self.claims.settle(fault):
                fault.device.counters.waited((time.monotonic() - fault.since_s) * 1e3)
                fault.device.usage.read(fault.first_page, fault.pages)
                fault.answer(None)
        else:
            self.claims.hold(fault)
            if after is None:
                self.demand.submit(partial(self._look_up, fault))
            else:
                self._look_up_again(fault, after)

    def _fail(self, fault: Fault, error: BaseException, *, logged: bool = False) -> None:
        """Answer a fault with an error; ``logged``: the task's line says what and why already."""
        if self.claims.settle(fault):
            fault.device.counters.errors += 1
            device = fault.device.device_id
            self.failures.note(device, error)
            if not logged:
                log.error("fault_failed", device=device, page=fault.first_page, error=error)
            fault.answer(error)

    def check_complete(self, device: Device) -> None:
        """Call ``on_complete`` if the device misses nothing and nobody has been told."""
        if device.complete or not device.all_ready():
            return
        with self.claims.lock:
            first, device.complete = not device.complete, True
        if first and self._on_complete is not None:
            # Whatever it meets, those who wait for the task that completed the device go on.
            run_logged(partial(self._on_complete, device))


_GUESSES = (Purpose.PREFETCH, Purpose.UNASKED)
"""What was brought before anybody asked for it; a reader that waits for it uses it next."""


def _refuse_closed(task: Task) -> None:
    """Raise DeviceClosed if every device that the task would fill has been let go."""
    devices = {target.device for piece in task.pieces for target in piece.targets}
    if devices and all(device.closed for device in devices):
        raise DeviceClosed(next(iter(devices)).device_id)


def _chunks_of(device: Device, spans: Sequence[Span]) -> tuple[Table, list[list[Chunk]]]:
    """Return a device's table and what it says of spans; a part that came wrong is read again.

    Raises what the store raises, IntegrityError (wrong twice).
    """
    try:
        table = device.table()
        return table, [table.between(span) for span in spans]
    except IntegrityError as err:
        device.counters.mismatches += 1
        log.warning("chunk_table_mismatch", error=str(err), action="reading it once more")
        table = device.table()
        return table, [table.between(span) for span in spans]


def _log_failed(task: Task, error: BaseException) -> None:
    """Say which blob could not be had, for which device, and what to do: one line a task."""
    target = task.pieces[0].targets[0]
    hint = getattr(error, "hint", "")
    log.error(
        "fill_failed",
        blob=task.blob,
        span=task.span,
        device=target.device.device_id,
        page=target.first_page,
        error=str(error),
        action=f"{hint}; a later read tries again" if hint else "a later read tries again",
    )
