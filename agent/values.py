"""What the agent's calls take and give, as plain values: the vocabulary of client and service.

Neither the command line nor the benchmark sees gRPC; they see these, and runtime's ContainerSpec
for what a caller wants of a container. Every value is read-only and
has a JSON form (`dataclasses.asdict`), which is what the command line prints with ``--json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runtime.container_spec import PortMapping

FillerName = Literal["auto", "fanotify", "fuse"]
FallbackRule = Literal["default", "allow", "forbid"]
Statefulness = Literal["prove", "stateless", "stateful"]

STORE_VARIABLE = "HOTSTART_STORE"
"""Names the store of commands, and the one that an agent makes ready at its start."""
QUOTA_VARIABLE = "HOTSTART_CACHE_QUOTA"
"""The cache's quota, for an agent that is started without ``--cache-quota``."""
PATIENCE_VARIABLE = "HOTSTART_PATIENCE"
"""Seconds for which readers wait for a store that is away; lazyfs/patience.py reads it."""
METRICS_VARIABLE = "HOTSTART_METRICS"
"""HOST:PORT where an agent serves its metrics that is started without ``--metrics``."""
DEFAULT_GRACE_S = 10.0
"""How long a container may take to end after SIGTERM."""


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as the agent knows it. Times are nanoseconds since 1970; 0: not yet."""

    name: str
    state: str
    reference: str
    digest: str
    argv: tuple[str, ...]
    pid: int
    exit_status: int | None
    reason: str
    created_ns: int
    finished_ns: int
    route: str
    address: str
    ports: tuple[PortMapping, ...]
    ready: bool


@dataclass(frozen=True, slots=True)
class StartReport:
    """How a start went; ``ready_ms`` counts from the moment the agent had the request.

    ``fetched_bytes`` are compressed bytes of files and memory; manifests, chunk tables and
    bootstraps are not counted.
    """

    container: ContainerView
    route: str
    ready_ms: float
    phases: Mapping[str, float]
    marks: Mapping[str, float]
    fetched_bytes: int
    fallback_reason: str
    received_s: float = 0.0
    """When the agent had the request, on this machine's CLOCK_MONOTONIC."""


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What a capture published, and how long the container stood still."""

    reference: str
    digest: str
    verdict: str
    stateless: bool
    size_bytes: int
    uploaded_bytes: int
    frozen_ms: float
    elapsed_ms: float
    phases: Mapping[str, float]
    stateful_reason: str = ""
    """Why a cold start may not take its place; empty if it may."""


@dataclass(frozen=True, slots=True)
class MountView:
    """One mounted image, as ``lazyfs.mount_stats`` counts; no path: only containers use it."""

    path: str
    reference: str
    digest: str
    filler: str
    users: int
    bytes_total: int = 0
    bytes_local: int = 0
    bytes_fetched: int = 0
    bytes_used: int = 0
    faults: int = 0
    misses: int = 0
    fault_median_ms: float = 0.0
    fault_p99_ms: float = 0.0
    stalled_ms: float = 0.0
    bytes_prefetched: int = 0
    bytes_prefetched_used: int = 0
    retries: int = 0
    mismatches: int = 0
    errors: int = 0
    requests: int = 0
    quarantined: int = 0

    @property
    def prefetch_hit_rate(self) -> float | None:
        """The share of what was prefetched that a reader has asked for since; None: nothing was."""
        if not self.bytes_prefetched:
            return None
        return round(self.bytes_prefetched_used / self.bytes_prefetched, 4)


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull made local; ``fetched_bytes`` as in StartReport."""

    digest: str
    size_bytes: int
    fetched_bytes: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A program to run in a running container; empty: as the container itself has it."""

    container: str
    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Some bytes that a container wrote to one of its streams."""

    stream: str
    data: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One process that serves the agent, and how often it was started."""

    kind: str
    pid: int
    starts: int


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The agent of one root."""

    version: str
    root: str
    pid: int
    uptime_s: float
    filler: str
    running: int
    mounts: int
    workers: tuple[WorkerView, ...] = field(default=())
    metrics_url: str = ""
    """Where Prometheus finds what is counted; empty: nowhere."""
