"""Threads that run jobs: started when needed, at most ``limit``, costing nothing while they wait.

A job must not raise; one that does is a bug and is logged, and the thread goes on. ``later`` runs
a job after a delay without holding a thread meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from hotstart.core.log import get_logger

log = get_logger(__name__)

Job: TypeAlias = Callable[[], None]


class TaskPool:
    """A bounded pool of daemon threads named after the pool."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self._limit = limit
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._delayed: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._due = threading.Condition(self._lock)
        self._timer: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Job) -> None:
        """Run ``job`` as soon as a thread is free. After close it is dropped."""
        with self._lock:
            if self._closed:
                return
            self._unfinished += 1
            if len(self._threads) < min(self._unfinished, self._limit):
                self._start()
        self._jobs.put(job)

    @property
    def unfinished(self) -> int:
        """How many jobs run or wait for a thread; those of ``later`` count when they are due."""
        return self._unfinished

    def later(self, delay_s: float, job: Job) -> None:
        """Submit ``job`` after ``delay_s``."""
        with self._lock:
            if self._closed:
                return
            entry = (time.monotonic() + delay_s, next(self._order), job)
            heapq.heappush(self._delayed, entry)
            if self._timer is None:
                name = f"{self.name}-timer"
                self._timer = threading.Thread(target=self._run_timer, name=name, daemon=True)
                self._timer.start()
            self._due.notify()

    def close(self, *, wait: bool = True) -> None:
        """End the threads after the jobs they run, and wait for that; what waits is dropped."""
        with self._lock:
            self._closed = True
            self._delayed.clear()
            self._due.notify()
            threads = [*self._threads, *([self._timer] if self._timer else [])]
        for _ in threads:
            self._jobs.put(None)
        for thread in threads if wait else ():
            if thread is not threading.current_thread():
                thread.join()

    def _start(self) -> None:
        name = f"{self.name}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._closed:
                run_logged(job)
            with self._lock:
                self._unfinished -= 1

    def _run_timer(self) -> None:
        while True:
            with self._lock:
                while not self._closed and (wait_s := self._wait_s()) != 0:
                    self._due.wait(wait_s)
                if self._closed:
                    return
                _, _, job = heapq.heappop(self._delayed)
            self.submit(job)

    def _wait_s(self) -> float | None:
        """Return seconds until the next delayed job; None: there is none."""
        if not self._delayed:
            return None
        return max(0.0, self._delayed[0][0] - time.monotonic())


def run_logged(job: Job) -> None:
    """Run ``job``; a bug in it must not end the thread that other readers depend on."""
    try:
        job()
    except Exception as err:
        log.warning("job_failed", error=f"{type(err).__name__}: {err}")
