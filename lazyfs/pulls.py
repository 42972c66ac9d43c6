"""Which devices are being fetched whole: a marker each, so that a worker's successor goes on.

    RUN_DIR/pulling/<device_id>      empty; there from the plan's begin until the device is
                                     complete, or the last job that fetches it is given up

The directory is the fill worker's alone. Methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path


class Pulls:
    """The markers below ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = run_dir / "pulling"
        self._directory.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._jobs: dict[str, set[int]] = {}
        """Which jobs of this worker fetch a device."""

    def begin(self, job: int, device_ids: Iterable[str]) -> None:
        """Note that these devices are to become complete, by the prefetch job ``job``."""
        with self._lock:
            for device_id in device_ids:
                self._jobs.setdefault(device_id, set()).add(job)
                (self._directory / device_id).touch()

    def give_up(self, job: int) -> None:
        """Forget what ``job`` was to fetch and no other job is."""
        with self._lock:
            for device_id in [one for one, jobs in self._jobs.items() if job in jobs]:
                self._jobs[device_id].discard(job)
                if not self._jobs[device_id]:
                    self._end(device_id)

    def end(self, device_id: str) -> None:
        """Forget a device: it is complete, or nobody wants it any more."""
        with self._lock:
            self._end(device_id)

    def _end(self, device_id: str) -> None:
        self._jobs.pop(device_id, None)
        (self._directory / device_id).unlink(missing_ok=True)

    def pending(self) -> set[str]:
        """Return the devices that were to become complete."""
        return {path.name for path in self._directory.iterdir()}
