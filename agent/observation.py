"""What the agent sees of its node at one moment, for the metrics.

Nothing waits long for it and it waits for nothing: a worker or keeper that does not answer at once
is told as down, and the rest is told all the same. The counters are those of `hotstart mounts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.shown_mounts import ShownMount
from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger

if TYPE_CHECKING:
    from agent.parts import Parts

log = get_logger(__name__)

GLANCE_S = 2.0
"""How long a worker or keeper may take to answer; a scrape is given up after 10 s by default."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a node.

    Without ``fill_worker_up`` the counters of ``mounts`` are not known, only what is mounted.
    ``workers`` are the starts of each kind of worker since this keeper is there.
    """

    filler: str
    mounts: tuple[ShownMount, ...]
    fill_worker_up: bool
    keeper_up: bool
    keeper_restarts: int
    workers: Mapping[str, int]


def observe(parts: Parts) -> Observation:
    """Look at a node. Raises no error of a keeper or worker that is gone."""
    counters = _counters(parts)
    keeper = parts.guard.glance(GLANCE_S)
    workers = {} if keeper is None else keeper["workers"]
    return Observation(
        filler=parts.images.filler,
        mounts=tuple(parts.shown_mounts(parts.images.stats(counters or {}))),
        fill_worker_up=counters is not None,
        keeper_up=keeper is not None,
        keeper_restarts=parts.guard.restarts,
        workers={kind: worker["starts"] for kind, worker in workers.items()},
    )


def _counters(parts: Parts) -> dict[str, dict[str, Any]] | None:
    """Return what the fill worker counts by device, None if it does not answer."""
    try:
        return parts.glancing.stats()
    except HotstartError as err:
        log.info("fill_worker_not_seen", reason=err)
        return None
