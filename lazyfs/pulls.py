"""Which devices are being fetched whole: a marker each, so that a worker's successor goes on.

    RUN_DIR/pulling/<device_id>.<job>    empty; there from the begin of the prefetch job until the
                                         device is complete, or the job is given up

The successor goes on under the job's own number: whoever began it can still wait for it and stop
it. The directory is the fill worker's alone. Methods may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

NUMBERLESS = 0
"""The job of markers without a number: a worker of before wrote them, nobody can stop them."""


class Pulls:
    """The markers below ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = run_dir / "pulling"
        self._directory.mkdir(exist_ok=True)
        for marker in list(self._directory.iterdir()):
            if not marker.suffix:
                marker.rename(self._marker(marker.name, NUMBERLESS))

    def _marker(self, device_id: str, job: int) -> Path:
        return self._directory / f"{device_id}.{job}"

    def begin(self, job: int, device_ids: Iterable[str]) -> None:
        """Note that these devices are to become complete, by the prefetch job ``job``."""
        for device_id in device_ids:
            self._marker(device_id, job).touch()

    def give_up(self, job: int) -> None:
        """Forget what ``job`` was to fetch, here or in a worker of before."""
        self._remove(f"*.{job}")

    def end(self, device_id: str) -> None:
        """Forget a device: it is complete, or nobody wants it any more."""
        self._remove(f"{device_id}.*")

    def _remove(self, pattern: str) -> None:
        for marker in list(self._directory.glob(pattern)):
            marker.unlink(missing_ok=True)

    def pending(self) -> dict[int, set[str]]:
        """Return the devices that were to become complete, by job."""
        jobs: dict[int, set[str]] = {}
        for marker in self._directory.iterdir():
            jobs.setdefault(int(marker.suffix[1:]), set()).add(marker.stem)
        return jobs
