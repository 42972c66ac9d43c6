"""Prefetch: fills that nobody waits for yet, in the order of a plan, many requests at a time.

A job takes tasks from its plan one by one, so that memory is bounded by what is in flight. Until a
thread takes it a task is queued, and a fault may claim what it needs of it: nothing is fetched
twice, and no reader waits for a queue. Jobs of chunks give way to faults; a start bundle does not,
it *is* what the next faults ask for. Its frames are made known before the first is fetched.

A job ends when its last task has ended; what failed for good is in ``error`` (the first of it) and
does not stop the rest, unless the disk is full. It takes no further task when its plan is at its
end, when its budget is spent, or when whoever it was for is gone (``stop``); ``stopped`` says
which. Threads end with their job: an idle worker has none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hotstart.core.log import get_logger
from lazyfs.device import Device, FrameMap
from lazyfs.disk_space import is_full
from lazyfs.error_roots import error_to_json
from lazyfs.fill_engine import FillEngine
from lazyfs.pieces import Task
from lazyfs.plan_tasks import bundle_tasks, everything_tasks, trace_tasks
from lazyfs.plans import BundlePlan, EverythingPlan, Plan, TracePlan

log = get_logger(__name__)

CONNECTIONS = 16


class PrefetchJob:
    """One running plan; ``done`` is set when it has ended, with or without ``error``."""

    def __init__(
        self,
        kind: str,
        on_done: Callable[[], None] | None = None,
        budget_bytes: int | None = None,
    ) -> None:
        """``budget_bytes``: the stored bytes after which no more is fetched; None: no limit."""
        self.kind = kind
        self.stopped = ""
        self._budget_bytes = budget_bytes
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.elapsed_ms = 0.0
        self.tasks = 0
        self.stored_bytes = 0
        self._started_s = time.monotonic()
        self._on_done = on_done
        self._pending = 1  # the plan itself, until it has no more tasks
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Count a task that this job runs, follows, or finds to be over."""
        with self._lock:
            self._pending += 1

    def note(self, task: Task) -> None:
        """Count what a task of this job fetches."""
        with self._lock:
            self.tasks += 1
            self.stored_bytes += task.span.length

    def stop(self) -> None:
        """Take no further task: nobody is left who would use it. What is begun is finished."""
        self.stopped = self.stopped or "unused"

    def may_go_on(self) -> bool:
        """Tell whether another task may be taken; notes a spent budget."""
        if self._budget_bytes is not None and self.stored_bytes >= self._budget_bytes:
            self.stopped = self.stopped or "budget"
        return not self.stopped

    def end(self, error: BaseException | None = None) -> None:
        """Count off a task, or the plan."""
        with self._lock:
            self.error = self.error or error
            self._pending -= 1
            if self._pending > 0:
                return
            self.elapsed_ms = (time.monotonic() - self._started_s) * 1e3
        if self._on_done is not None:
            self._on_done()
        self.done.set()

    def to_json(self) -> dict[str, Any]:
        """Return how far the job is."""
        return {
            "kind": self.kind,
            "done": self.done.is_set(),
            "error": None if self.error is None else error_to_json(self.error),
            "stopped": self.stopped,
            "tasks": self.tasks,
            "stored_bytes": self.stored_bytes,
            "elapsed_ms": round(self.elapsed_ms, 2),
        }


class _Runner:
    """The threads of one job: each takes a task, runs it, and takes the next."""

    def __init__(self, engine: FillEngine, job: PrefetchJob, source: Iterator[Task]) -> None:
        self._engine = engine
        self._job = job
        self._source = source
        self._exhausted = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run tasks until the plan has no more."""
        while True:
            if self._job.kind != "bundle":
                self._engine.give_way()
            task = self._next()
            if task is None:
                return
            self._job.begin()
            mine, followed = self._engine.claims.claim_task(task, self._ended)
            if mine:
                self._job.note(task)
                self._engine.run_prefetch(task)
            elif not followed:
                self._job.end()

    def _ended(self, _: Task, error: BaseException | None) -> None:
        if error is not None and is_full(error):
            self._stop(error)  # what comes next would be fetched for nothing
        self._job.end(error)

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            if not self._exhausted:
                log.warning("prefetch_stopped", kind=self._job.kind, error=str(error))
                self._exhausted = True
                self._job.end(error)

    def _next(self) -> Task | None:
        with self._lock:
            if self._exhausted:
                return None
            try:
                task = next(self._source, None) if self._job.may_go_on() else None
            except Exception as err:  # the plan can't be read any further: a table that fails
                log.warning("prefetch_stopped", kind=self._job.kind, error=str(err))
                self._exhausted = True
                self._job.end(err)
                return None
            if task is None:
                self._exhausted = True
                self._job.end()
            return task


class Prefetcher:
    """Runs jobs over one engine, each with up to ``connections`` requests at a time."""

    def __init__(self, engine: FillEngine, *, connections: int = CONNECTIONS) -> None:
        self._engine = engine
        self._connections = connections

    def start(self, plan: Plan, devices: Mapping[str, Device]) -> PrefetchJob:
        """Begin a plan on ``devices`` (by id) and return at once; other devices are left out."""
        match plan:
            case BundlePlan():
                return self._start_bundle(plan, devices)
            case TracePlan(trace, budget):
                job = PrefetchJob("trace", budget_bytes=budget)
                return self._begin(job, trace_tasks(self._engine, trace, devices))
            case EverythingPlan():
                tasks = everything_tasks(self._engine, list(devices.values()))
                return self._begin(PrefetchJob("all"), tasks)

    def _start_bundle(self, plan: BundlePlan, devices: Mapping[str, Device]) -> PrefetchJob:
        tasks, frames = bundle_tasks(plan, devices)
        maps = [(device, FrameMap(found)) for device, found in frames.items()]
        with self._engine.claims.lock:
            for device, frame_map in maps:
                device.frames.append(frame_map)
        job = PrefetchJob("bundle", on_done=lambda: self._forget(maps))
        return self._begin(job, iter(tasks), threads=min(self._connections, len(tasks)))

    def _forget(self, maps: list[tuple[Device, FrameMap]]) -> None:
        """Take a finished bundle's frames away, and have the chunk tables at hand for misses."""
        with self._engine.claims.lock:
            for device, frame_map in maps:
                device.frames.remove(frame_map)
        for device, _ in maps:
            if not device.all_ready():
                self._engine.demand.submit(device.preload_table)

    def _begin(
        self, job: PrefetchJob, source: Iterator[Task], threads: int | None = None
    ) -> PrefetchJob:
        runner = _Runner(self._engine, job, source)
        for number in range(max(1, self._connections if threads is None else threads)):
            name = f"prefetch-{job.kind}-{number}"
            threading.Thread(target=runner.run, name=name, daemon=True).start()
        return job
