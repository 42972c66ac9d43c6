"""What restores and captures need of mounted images, as protocols; lazyfs is behind them.

``ImageMounts`` and ``FillClient`` of lazyfs fit; tests put directories in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from hotstart.store.trace import Trace
from lazyfs.plans import Plan
from lazyfs.spec import MountSpec


class Mounted(Protocol):
    """An image that is mounted for as long as it is not released."""

    @property
    def path(self) -> Path:
        """Where it is mounted."""

    def release(self) -> None:
        """Let go; the last user's release may unmount it."""


class Recording(Protocol):
    """A second mount of an image whose first touches are noted."""

    @property
    def path(self) -> Path:
        """Where it is mounted."""

    def stop(self) -> Trace:
        """End the recording and return it."""


class MountCounters(Protocol):
    """What happened on one mount so far."""

    @property
    def manifest(self) -> str:
        """The image's manifest in hex."""

    @property
    def faults(self) -> int:
        """How often somebody waited for absent data."""


class Images(Protocol):
    """Mounts images."""

    def prepare(self, *specs: MountSpec) -> None:
        """Make what a prefetch for all of the images needs, or nothing; ``mount`` follows."""

    def mount(self, spec: MountSpec, *, read_ahead_kib: int) -> Mounted:
        """Mount the image, or use the mount that is there."""

    def is_local(self, spec: MountSpec) -> bool:
        """Tell whether nothing of the image is left to fetch."""

    def stats(self) -> Sequence[MountCounters]:
        """Return every mount's counters."""

    def mount_recording(
        self, spec: MountSpec, *, read_ahead_kib: int
    ) -> AbstractContextManager[Recording]:
        """Mount the image once more, apart, and record what is touched there."""


class Prefetcher(Protocol):
    """Fetches what will be needed."""

    @property
    def removals(self) -> int:
        """How many devices have left the cache so far."""

    def prefetch(self, name: str, plan: Plan) -> int:
        """Begin to fetch for the image ``name`` (its manifest in hex); return the job at once."""

    def wait(self, job: int) -> Mapping[str, Any]:
        """Block until the job has ended; ``stopped`` says why it did before its plan, or "".

        Raises if it failed.
        """


class CachePaths(Protocol):
    """Where the local files of a device are."""

    def device_path(self, device_id: str) -> Path:
        """The sparse device file."""

    def ready_path(self, device_id: str) -> Path:
        """The ready map beside it."""
