"""What a run of the scenario ``cold-start`` is asked for, and the names of its paths.

Values only; what can be wrong with them is found by ``check``, before anything is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.link_emulator import Link
from bench.workload.tree import default_cache
from hotstart.core.errors import UserError
from snapshotter.criu import INSTALLED

LEAST_ROUNDS = 5

FAR_PATHS = (
    "pull-and-cold",
    "lazy-cold",
    "lazy-cold-unrecorded",
    "restore-empty-node",
    "restore-empty-node-unrecorded",
)
"""Over the emulated link, to a node that holds nothing."""

ORDER = (
    "cold",
    "hotstart-cold",
    "restore",
    "criu-plain",
    *FAR_PATHS,
    "cold-empty-cache",
    "restore-empty-cache",
)
"""Rounds go through this forwards and backwards, so the page cache is emptied at one end only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartOptions:
    """``environment`` is that of the agents which the run starts; ``command`` is only recorded."""

    environment: Mapping[str, str]
    command: Sequence[str] = ()
    rounds: int = LEAST_ROUNDS
    only: frozenset[str] = frozenset()
    """Names of paths to measure; empty: all."""
    figures: bool = True
    """Also measure builds, reads and imports."""
    scratch: Path = Path("/var/tmp")  # noqa: S108  (a private directory is made in it)
    cache: Path = field(default_factory=default_cache)
    """Where the demo tree is kept between runs."""
    criu: Path = INSTALLED
    link: Link = field(default_factory=Link)
    timeout_s: float = 60.0
    """How long one start may take."""

    def wants(self, path: str) -> bool:
        """Whether a path is to be measured."""
        return not self.only or path in self.only

    def check(self) -> None:
        """Raise UserError for what cannot be carried out."""
        if self.rounds < 1:
            raise UserError(f"{self.rounds} is no number of rounds", "use 1 or more")
        unknown = self.only - set(ORDER)
        if unknown:
            raise UserError(
                f"no such path: {', '.join(sorted(unknown))}", f"choose from {', '.join(ORDER)}"
            )
        if not self.criu.exists():
            raise UserError(f"{self.criu}: there is no CRIU", "run make setup")
