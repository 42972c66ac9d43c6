"""A page worker without its keeper: it holds what the agent has had no time to copy.

The keeper gets each userfaultfd before anybody depends on it, the agent its copy up to a second
later. If the keeper dies in between, this worker has the last descriptor, and its own end would
let missing memory read as zeros. So it serves no more, keeps everything open, and waits for the
next keeper. What that one holds goes on with the next worker; the container of every other session
is killed, with the reason, before anything is closed. If no keeper comes, all of them are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.kernel.keeper_client import KeeperClient
from snapshotter.condemn import Victims, record_failure
from snapshotter.session_holder import KIND
from snapshotter.session_spec import SessionSpec

log = get_logger(__name__)

NEXT_KEEPER_S = 30.0
"""How long a restored process may stand still; an agent that is restarted takes seconds."""
_LOOK_EACH_S = 0.01
_REASON = "the keeper died before the agent held the memory's descriptors too"


class Session(Protocol):
    """What is used of ``PageSession``."""

    spec: SessionSpec

    @property
    def held_names(self) -> frozenset[str]:
        """The keeper's sets without which the session cannot be taken over."""


def hand_over(
    sessions: Sequence[Session], keeper_socket: Path, *, patience_s: float = NEXT_KEEPER_S
) -> None:
    """Return once nobody needs what ``sessions`` have open any more."""
    deadline = time.monotonic() + patience_s
    held: frozenset[str] | None = None
    while needed := [one for one in sessions if one.held_names and _victims(one).alive()]:
        held = _held_by_next(keeper_socket)
        if held is not None or time.monotonic() > deadline:
            break
        time.sleep(_LOOK_EACH_S)
    for session in needed:
        missing = session.held_names - (held or frozenset())
        if missing:
            log.error("page_session_orphaned", session=session.spec.session, sets=len(missing))
            record_failure(Path(session.spec.work_dir), _REASON)
            _victims(session).kill_all()


def _held_by_next(keeper_socket: Path) -> frozenset[str] | None:
    """Return what the next keeper holds; None as long as there is none that has been equipped.

    The agent gives it everything before it has the workers started (``KeeperGuard``).
    """
    try:
        with KeeperClient(keeper_socket) as keeper:
            equipped = KIND in keeper.status()["workers"]
            return frozenset(keeper.names(KIND)) if equipped else None
    except (HotstartError, OSError):
        return None


def _victims(session: Session) -> Victims:
    return Victims(session.spec.cgroup_procs, session.spec.process_file)
