"""Fetches the rest of restored images, once nobody waits for anything of them.

A demand miss before the first answer costs a round trip, and a fill beside it takes the link away:
so the fill of a start begins when no page was asked for during ``quiet_s``, at the latest after
``limit_s``. What lies around a miss comes with it (lazyfs.read_around), recorded or not.

One thread for all starts of an agent, asleep while there is none. What was begun goes on in the
fill worker, behind demand. Failures are logged: the container runs without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from lazyfs.plans import EverythingPlan
from runtime.image_access import Prefetcher

log = get_logger(__name__)

QUIET_S = 2.0
LIMIT_S = 60.0
STEP_S = 0.5


Touches = Callable[[], int]
"""Counts how often anything of the images was asked for so far."""


@dataclass(slots=True)
class _Waiting:
    names: Sequence[str]
    count: Touches
    since_s: float
    quiet_since_s: float
    touches: int = -1


class BackgroundFill:
    """The fills of one agent that have not begun yet."""

    def __init__(
        self,
        prefetcher: Prefetcher,
        *,
        quiet_s: float = QUIET_S,
        limit_s: float = LIMIT_S,
        step_s: float = STEP_S,
    ) -> None:
        self._prefetcher = prefetcher
        self._quiet_s = quiet_s
        self._limit_s = limit_s
        self._step_s = step_s
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._thread: threading.Thread | None = None

    def after_demand(self, names: Sequence[str], count: Touches) -> None:
        """Fill the images ``names``, the one with the memory first, as the module describes."""
        now = time.monotonic()
        with self._lock:
            self._waiting.append(_Waiting(names, count, now, now))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="background-fill", daemon=True
                )
                self._thread.start()

    def at_once(self, names: Sequence[str]) -> None:
        """Fill the images now: nothing was recorded, and single misses would take longer."""
        for name in names:
            try:
                self._prefetcher.prefetch(name, EverythingPlan())
            except (HotstartError, OSError) as err:
                log.warning("background_fill_not_begun", image=name, reason=str(err))

    def _run(self) -> None:
        while True:
            with self._lock:
                waiting = list(self._waiting)
                if not waiting:
                    self._thread = None
                    return
            for one in waiting:
                try:
                    self._look_at(one)
                except Exception as err:  # of one image: the others' fills must begin all the same
                    log.error("background_fill_broken", images=list(one.names), reason=err)  # noqa: TRY400  # one line
                    self._forget(one)
            time.sleep(self._step_s)

    def _look_at(self, one: _Waiting) -> None:
        now = time.monotonic()
        try:
            touches = one.count()
        except (HotstartError, OSError):
            touches = one.touches
        if touches != one.touches:
            one.touches, one.quiet_since_s = touches, now
        if now - one.quiet_since_s >= self._quiet_s or now - one.since_s >= self._limit_s:
            self._forget(one)
            self.at_once(one.names)

    def _forget(self, one: _Waiting) -> None:
        with self._lock:
            if one in self._waiting:
                self._waiting.remove(one)
