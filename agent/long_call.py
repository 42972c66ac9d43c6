"""One long call inside the agent: its events on the way out, its cancellation on the way in.

The work runs in a thread of its own and reports here (it is a ProgressSink); the call's thread
hands the events to gRPC. Work asks ``check`` between its steps (``CallPhases`` does at each): after
a cancellation it raises CallCancelled, and the step's own ExitStack undoes what was done. Events of
a task are thinned to one per ``INTERVAL_S``, so that a fast producer never fills the queue.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from agent.status import CallCancelled
from hotstart.core.phases import Phases
from hotstart.core.progress import Progress

Result = TypeVar("Result")

INTERVAL_S = 0.1
_END = object()


class LongCall(Generic[Result]):
    """Runs ``work`` in a thread. ``events`` yields what happens; ``result`` ends it."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        """When the agent had the request, on the monotonic clock."""
        self._cancelled = threading.Event()
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._last: dict[str, float] = {}
        self._outcome: Result | BaseException | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None
        self._ended = False

    def update(self, event: Progress) -> None:
        """Take a progress event; called by the work, from any thread."""
        now = time.monotonic()
        if event.finished or now - self._last.get(event.task, 0.0) >= INTERVAL_S:
            self._last[event.task] = now
            self._events.put(event)

    def notify(self, text: str) -> None:
        """Take one sentence for the person who waits."""
        self._events.put(text)

    def emit(self, event: object) -> None:
        """Take an event that is neither progress nor talk: a piece of output."""
        self._events.put(event)

    def cancel(self) -> None:
        """Ask the work to stop at its next step; called when the caller has gone away.

        gRPC calls this at the end of every call: it does nothing once the work has ended.
        """
        with self._lock:
            if self._ended:
                return
            self._cancelled.set()
            interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            interrupt()

    def on_cancel(self, interrupt: Callable[[], object]) -> None:
        """Have ``interrupt`` called at a cancellation, to end what the work waits for."""
        with self._lock:
            self._interrupt = interrupt

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raise CallCancelled if nobody waits any more."""
        if self.cancelled:
            raise CallCancelled("the call was cancelled; what it had done is undone")

    def start(self, work: Callable[[], Result]) -> None:
        """Begin ``work`` in a thread."""

        def body() -> None:
            try:
                self._outcome = work()
            except BaseException as err:  # carried to the call's own thread
                self._outcome = err
            finally:
                with self._lock:
                    self._ended = True
                self._events.put(_END)

        self._thread = threading.Thread(target=body, name="long-call", daemon=True)
        self._thread.start()

    def events(self) -> Iterator[object]:
        """Yield events until the work has ended."""
        while (event := self._events.get()) is not _END:
            yield event

    def result(self) -> Result:
        """Return what the work returned, or raise what it raised. Only after its end."""
        assert self._thread is not None  # noqa: S101  # start() comes first
        self._thread.join()
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[return-value]  # the work has ended: it is a Result


class CallPhases(Phases):
    """Phases counted from the request; each asks first whether anybody still waits."""

    def __init__(self, call: LongCall[Any]) -> None:
        super().__init__()
        self.started_s = call.started_s
        self._checks: list[Callable[[], object]] = [call.check]

    def check(self) -> None:
        """Raise CallCancelled when nobody waits any more, or what another check raises."""
        for check in self._checks:
            check()

    def also_check(self, check: Callable[[], object]) -> None:
        """Have ``check`` raise where the operation is to end for another reason."""
        self._checks.append(check)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """As Phases does. Raises as ``check`` does instead of beginning."""
        self.check()
        with super().phase(name):
            yield
