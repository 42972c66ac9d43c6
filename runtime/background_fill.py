"""Fetches the rest of restored images, once nobody waits for anything of them.

A demand miss before the first answer costs a round trip, and a fill beside it takes the link away:
so the fill of a start begins when no page was asked for during ``quiet_s``, at the latest after
``limit_s``. But several misses in a row after *ready* mean a request that was never recorded, whose
misses would follow one another a round trip each: then the memory, which is most of them, is
fetched at once, behind demand.

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
UNRECORDED_MISSES = 4
"""Requests for single misses after *ready* that tell a request that was never recorded."""
EARLY_S, EARLY_STEP_S = 5.0, 0.02
"""How long, and how often, a fresh start is looked at for such misses."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What was asked for so far: pages touched, and fetches that somebody waited for."""

    touches: int
    misses: int


Counts = Callable[[], Demand]


@dataclass(slots=True)
class _Waiting:
    names: Sequence[str]
    counts: Counts
    since_s: float
    quiet_since_s: float
    touches: int = -1
    first_misses: int = -1
    memory_begun: bool = False


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

    def after_demand(self, names: Sequence[str], counts: Counts) -> None:
        """Fill the images ``names``, the one with the memory first, as the module describes."""
        now = time.monotonic()
        with self._lock:
            self._waiting.append(_Waiting(names, counts, now, now))
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
                self._look_at(one)
            time.sleep(self._pause_s(waiting))

    def _pause_s(self, waiting: Sequence[_Waiting]) -> float:
        now = time.monotonic()
        early = any(not one.memory_begun and now - one.since_s < EARLY_S for one in waiting)
        return min(self._step_s, EARLY_STEP_S) if early else self._step_s

    def _look_at(self, one: _Waiting) -> None:
        now = time.monotonic()
        try:
            demand = one.counts()
        except (HotstartError, OSError):
            demand = Demand(one.touches, one.first_misses)
        if one.first_misses < 0:
            one.first_misses = demand.misses
        if demand.touches != one.touches:
            one.touches, one.quiet_since_s = demand.touches, now
        if not one.memory_begun and demand.misses >= one.first_misses + UNRECORDED_MISSES:
            one.memory_begun = True
            self.at_once(one.names[:1])
        if now - one.quiet_since_s >= self._quiet_s or now - one.since_s >= self._limit_s:
            with self._lock:
                self._waiting.remove(one)
            self.at_once(one.names)
