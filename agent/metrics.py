"""What Prometheus is told: one look at the node, as families of samples.

Names follow the conventions: ``hotstart_`` before, base units, ``_total`` on counters alone. A
family's series are those of the mounts that are shown at the moment; whatever vanishes takes its
series along. docs/cli.md has the list for people; tests compare.

A mount is labelled by ``reference``. Only where that leaves two alike, or nobody has named the
image, ``digest`` tells which it is.
Counters begin anew with each fill worker, as `rate` expects of a process that was restarted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agent.observation import Observation
from agent.shown_mounts import ShownMount
from lazyfs.mount_stats import MountStats

LABELS = ("reference", "digest")
_DIGEST_CHARACTERS = len("sha256:") + 12

Labelled: TypeAlias = list[tuple[tuple[str, ...], MountStats]]
"""The values of LABELS, or the first alone, and what they label."""


@dataclass(frozen=True, slots=True)
class _Told:
    """One number of a mount."""

    name: str
    meaning: str
    value: Callable[[MountStats], float]


_KNOWN = (
    _Told("size_bytes", "Bytes of the mounted image's devices.", lambda m: m.bytes_total),
    _Told("users", "Containers and mount targets that use the image.", lambda m: m.users),
)
"""Gauges that need no worker."""
_GAUGES = (
    _Told("local_bytes", "Bytes of the image that are on this machine.", lambda m: m.bytes_local),
    _Told(
        "prefetched_unused_bytes",
        "Bytes brought before a reader asked for them that none has asked for yet.",
        lambda m: m.bytes_prefetched - m.bytes_prefetched_used,
    ),
)
_COUNTERS = (
    _Told("fetched_bytes", "Compressed bytes read from the store.", lambda m: m.bytes_fetched),
    _Told(
        "used_bytes", "Bytes that readers asked for, the first time each.", lambda m: m.bytes_used
    ),
    _Told(
        "prefetched_bytes",
        "Bytes brought before a reader asked for them.",
        lambda m: m.bytes_prefetched,
    ),
    _Told(
        "prefetched_used_bytes",
        "Bytes brought before a reader asked for them that one has asked for since.",
        lambda m: m.bytes_prefetched_used,
    ),
    _Told("faults", "Times that the kernel asked for bytes.", lambda m: m.faults),
    _Told("misses", "Faults whose reader had to wait for bytes.", lambda m: m.misses),
    _Told("errors", "Faults whose reader got an error.", lambda m: m.errors),
    _Told("store_requests", "Requests to the store.", lambda m: m.requests),
    _Told("retries", "Requests to the store that were repeated.", lambda m: m.retries),
    _Told("mismatches", "Chunks that came with other bytes than named.", lambda m: m.mismatches),
    _Told("quarantined", "Chunks that came wrong twice.", lambda m: m.quarantined),
)


class NodeCollector(Collector):
    """Looks at a node anew at each scrape. Thread-safe if ``observe`` is."""

    def __init__(self, observe: Callable[[], Observation], version: str) -> None:
        self._observe = observe
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Return every family without samples: for the registry, which looks at no node."""
        return self._families(Observation("", (), True, True, 0, {}))

    def collect(self) -> Iterable[Metric]:
        """Return every family. Raises what ``observe`` does."""
        return self._families(self._observe())

    def _families(self, seen: Observation) -> Iterator[Metric]:
        yield InfoMetricFamily("hotstart_build", "Version.", {"version": self._version})
        yield InfoMetricFamily(
            "hotstart_filler", "How absent data is brought.", {"filler": seen.filler}
        )
        yield GaugeMetricFamily("hotstart_keeper_up", "Whether the keeper answers.", seen.keeper_up)
        yield GaugeMetricFamily(
            "hotstart_fill_worker_up",
            "Whether the fill worker answers; if not, its counters are absent.",
            seen.fill_worker_up,
        )
        yield CounterMetricFamily(
            "hotstart_keeper_restarts",
            "Keepers that died and were replaced since the agent began.",
            seen.keeper_restarts,
        )
        restarts = CounterMetricFamily(
            "hotstart_worker_restarts",
            "Successors of workers since the keeper began.",
            labels=("worker",),
        )
        for kind, starts in sorted(seen.workers.items()):
            restarts.add_metric((kind,), starts - 1)
        yield restarts
        mounts = labelled(seen.mounts)
        yield GaugeMetricFamily("hotstart_mounts", "Images in use, by name.", len(mounts))
        yield from _of_mounts(mounts, seen.fill_worker_up)


def _of_mounts(mounts: Labelled, counted: bool) -> Iterator[Metric]:
    """Yield the families that have a series for each mount; without counters some are empty."""
    for told in _KNOWN:
        yield _filled(GaugeMetricFamily, told, mounts)
    counting = mounts if counted else []
    for told in _GAUGES:
        yield _filled(GaugeMetricFamily, told, counting)
    for told in _COUNTERS:
        yield _filled(CounterMetricFamily, told, counting)
    waits = HistogramMetricFamily(
        "hotstart_mount_fault_wait_seconds",
        "How long readers waited for bytes, those that got them.",
        labels=LABELS,
    )
    for labels, stats in counting:
        if stats.fault_waits:  # a worker that serves FUSE may be older than the agent
            waits.add_metric(labels, _buckets(stats), stats.stalled_ms / 1000)
    yield waits


def _filled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily], told: _Told, mounts: Labelled
) -> Metric:
    metric = family(f"hotstart_mount_{told.name}", told.meaning, labels=LABELS)
    for labels, stats in mounts:
        metric.add_metric(labels, told.value(stats))
    return metric


def _buckets(stats: MountStats) -> list[tuple[str, float]]:
    """Return the waits as Prometheus counts them: each bucket has all before it."""
    buckets, total = [], 0
    for bound_ms, count in stats.fault_waits:
        total += count
        bound = "+Inf" if math.isinf(bound_ms) else str(bound_ms / 1000)
        buckets.append((bound, float(total)))
    return buckets


def labelled(mounts: Iterable[ShownMount]) -> Labelled:
    """Return each image once for each of its names, with labels that tell it apart."""
    named = {(mount.reference, mount.digest): mount.stats for mount in mounts}
    alike = Counter(reference for reference, _ in named)
    return [
        (_labels(reference, digest, alone=alike[reference] == 1), stats)
        for (reference, digest), stats in named.items()
    ]


def _labels(reference: str, digest: str, *, alone: bool) -> tuple[str, ...]:
    if reference and alone:
        return (reference,)
    return reference, digest[:_DIGEST_CHARACTERS]
