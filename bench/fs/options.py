"""What a run of the scenario ``fs`` is asked for: values only, checked before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.link_emulator import Link
from bench.workload.tree import default_cache
from hotstart.core.errors import UserError

LINKS = ("loopback", "link")
MIB = 1 << 20
LEAST_ROUNDS = 5
WORKLOADS = (
    "first-4k", "sequential", "mmap-random", "walk", "import", "safetensors",
    "warm-read", "walk-warm", "import-warm", "mmap-warm", "mmap-local", "mount",
)  # fmt: skip
"""In the order of a round: first what is cold, then what is local, then mounts by image size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large everything is; bytes, and counts of files and faults."""

    sequential: int = 256 * MIB
    random: int = 256 * MIB
    weights: int = 2048 * MIB
    first_bytes: int = MIB
    """Files of which only the beginning is read lie this far apart."""
    first_files: int = 48
    """Read one after another."""
    first_concurrent: int = 128
    """Read by ``readers`` at once."""
    readers: int = 16
    cold_faults: int = 150
    local_faults: int = 3000
    torch: bool = True
    """Import torch and load with safetensors, out of the demo tree; else small stand-ins."""
    files: tuple[int, ...] = (10, 1000, 10_000, 100_000)
    """Files of the images that are only mounted; these hold ``least_data``."""
    data: tuple[int, ...] = (100_000_000, 1_000_000_000, 20_000_000_000)
    """Bytes of data (sparse) of the images that are only mounted; these hold few files."""


FULL = Sizes()
QUICK = Sizes(
    sequential=4 * MIB,
    random=2 * MIB,
    weights=2 * MIB,
    first_bytes=64 << 10,
    first_files=4,
    first_concurrent=8,
    readers=4,
    cold_faults=8,
    local_faults=50,
    torch=False,
    files=(10, 100),
    data=(1_000_000, 20_000_000),
)
"""A smoke test: every step, in seconds; its times say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FsOptions:
    """``environment`` is that of the agents which the run starts; ``command`` is only recorded."""

    environment: Mapping[str, str]
    command: Sequence[str] = ()
    rounds: int = LEAST_ROUNDS
    minutes: float = 0.0
    """Begin no round that would end later than so long after the first began; 0: no limit."""
    workloads: frozenset[str] = frozenset()
    """Names of workloads to measure; empty: all."""
    sizes: Sizes = FULL
    scratch: Path = Path("/var/tmp")  # noqa: S108  (a private directory is made in it)
    cache: Path = field(default_factory=default_cache)
    """Where the demo tree is kept between runs."""
    link: Link = field(default_factory=Link)

    def wants(self, workload: str) -> bool:
        """Whether a workload is to be measured."""
        return not self.workloads or workload in self.workloads

    def check(self) -> None:
        """Raise UserError for what cannot be carried out."""
        if self.rounds < 1:
            raise UserError(f"{self.rounds} is no number of rounds", "use 1 or more")
        unknown = self.workloads - set(WORKLOADS)
        if unknown:
            raise UserError(
                f"no such workload: {', '.join(sorted(unknown))}",
                f"choose from {', '.join(WORKLOADS)}",
            )
