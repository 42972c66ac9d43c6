"""Which devices are being fetched whole: a marker each, so that a worker's successor goes on.

    RUN_DIR/pulling/<device_id>      empty; there from the plan's begin until the device is complete

The directory is the fill worker's alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Pulls:
    """The markers below ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = run_dir / "pulling"
        self._directory.mkdir(exist_ok=True)

    def begin(self, device_ids: Iterable[str]) -> None:
        """Note that these devices are to become complete."""
        for device_id in device_ids:
            (self._directory / device_id).touch()

    def end(self, device_id: str) -> None:
        """Forget a device: it is complete, or nobody wants it any more."""
        (self._directory / device_id).unlink(missing_ok=True)

    def pending(self) -> set[str]:
        """Return the devices that were to become complete."""
        return {path.name for path in self._directory.iterdir()}
