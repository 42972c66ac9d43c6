"""Fetches the rest of restored images, once nobody waits for anything of them.

A demand miss before the first answer costs a round trip, and a fill beside it takes the link away:
so the fill of a start begins when no page was asked for during ``quiet_s``, at the latest after
``limit_s``. One thread for all starts of an agent, asleep while there is none. What was begun goes
on in the fill worker, behind demand. Failures are logged: the container runs without it.
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

Demand = Callable[[], int]
"""Counts everything that was asked for so far; any change means somebody was waiting."""


@dataclass(slots=True)
class _Waiting:
    names: Sequence[str]
    demand: Demand
    since_s: float
    quiet_since_s: float
    seen: int = -1


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

    def after_demand(self, names: Sequence[str], demand: Demand) -> None:
        """Fill the images ``names`` once ``demand`` has stayed the same for a while."""
        now = time.monotonic()
        with self._lock:
            self._waiting.append(_Waiting(names, demand, now, now))
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
            time.sleep(self._step_s)
            with self._lock:
                waiting = list(self._waiting)
                if not waiting:
                    self._thread = None
                    return
            for one in waiting:
                if self._is_due(one):
                    with self._lock:
                        self._waiting.remove(one)
                    self.at_once(one.names)

    def _is_due(self, one: _Waiting) -> bool:
        now = time.monotonic()
        try:
            demand = one.demand()
        except (HotstartError, OSError):
            demand = one.seen
        if demand != one.seen:
            one.seen, one.quiet_since_s = demand, now
        quiet = now - one.quiet_since_s >= self._quiet_s
        return quiet or now - one.since_s >= self._limit_s
