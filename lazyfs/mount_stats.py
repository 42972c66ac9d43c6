"""What is told of a mounted image: a value, made of what the fill worker counts for its devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyfs.spec import MountSpec


@dataclass(frozen=True, slots=True)
class MountStats:
    """One mount as others see it; sizes in bytes."""

    manifest: str
    path: Path
    users: int
    bytes_total: int
    bytes_local: int
    bytes_fetched: int
    faults: int
    counters: dict[str, Any]

    @classmethod
    def of(
        cls, spec: MountSpec, path: Path, users: int, devices: Mapping[str, dict[str, Any]]
    ) -> MountStats:
        """Add up what ``devices`` (counters by device id) say of the image's devices."""
        own = [devices.get(device.device_id, {}) for device in spec.devices]

        def total(key: str) -> int:
            return sum(int(device.get(key, 0)) for device in own)

        return cls(
            spec.manifest,
            path,
            users,
            total("bytes_total"),
            total("bytes_local"),
            total("fetched_bytes"),
            total("faults"),
            own[0] if own else {},
        )
