"""What is told of a mounted image: a value, made of what the fill worker counts for its devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyfs.spec import MountSpec


@dataclass(frozen=True, slots=True)
class MountStats:
    """One mount as others see it; sizes in bytes. Counters begin anew with each fill worker.

    Bytes are those of the device: ``bytes_used`` were asked for by readers (the kernel's read-ahead
    counts), as far as that is seen: a complete device raises no events. ``bytes_fetched`` are
    stored, compressed ones. Times of faults are those of the readers that had to wait for bytes;
    of several devices the slowest one's. ``fault_waits`` counts them all: pairs of an upper bound
    in ms, the last one infinite, and how many were no longer, but longer than the bound before.
    """

    manifest: str
    path: Path
    users: int
    bytes_total: int
    bytes_local: int
    bytes_fetched: int
    bytes_used: int
    faults: int
    misses: int
    fault_median_ms: float
    fault_p99_ms: float
    stalled_ms: float
    bytes_prefetched: int
    bytes_prefetched_used: int
    retries: int
    mismatches: int
    errors: int
    requests: int
    quarantined: int
    fault_waits: tuple[tuple[float, int], ...]

    @classmethod
    def of(
        cls, spec: MountSpec, path: Path, users: int, devices: Mapping[str, dict[str, Any]]
    ) -> MountStats:
        """Add up what ``devices`` (counters by device id) say of the image's devices.

        Of a device that is not among them only the size is known.
        """
        own = [devices.get(device.device_id, {}) for device in spec.devices]

        def total(key: str) -> int:
            return sum(int(device.get(key, 0)) for device in own)

        def slowest(key: str) -> float:
            return max((float(device.get(key, 0.0)) for device in own), default=0.0)

        return cls(
            manifest=spec.manifest,
            path=path,
            users=users,
            bytes_total=sum(device.size_bytes for device in spec.devices),
            bytes_local=total("bytes_local"),
            bytes_fetched=total("fetched_bytes"),
            bytes_used=total("read_bytes"),
            faults=total("faults"),
            misses=total("misses"),
            fault_median_ms=slowest("fault_median_ms"),
            fault_p99_ms=slowest("fault_p99_ms"),
            stalled_ms=round(sum(float(device.get("stalled_ms", 0.0)) for device in own), 3),
            bytes_prefetched=total("prefetched_bytes"),
            bytes_prefetched_used=total("prefetch_used_bytes"),
            retries=total("retries"),
            mismatches=total("mismatches"),
            errors=total("errors"),
            requests=total("requests"),
            quarantined=total("quarantined"),
            fault_waits=_add_up(device.get("waits", ()) for device in own),
        )


def _add_up(devices: Iterable[Iterable[tuple[float | None, int]]]) -> tuple[tuple[float, int], ...]:
    """Add up the waits of several devices; a worker that was not renewed may count none."""
    counts: dict[float, int] = {}
    for waits in devices:
        for bound_ms, count in waits:
            bound = math.inf if bound_ms is None else float(bound_ms)
            counts[bound] = counts.get(bound, 0) + count
    return tuple(sorted(counts.items()))
