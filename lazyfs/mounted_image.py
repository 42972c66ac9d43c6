"""A mounted image in the books of its root, and one use of it."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hotstart.core.errors import Conflict
from hotstart.kernel.erofs import ErofsMount
from hotstart.kernel.mounts import is_mounted, unmount
from hotstart.store.layers import raw_digest
from lazyfs.spec import MountSpec


class MountBusy(Conflict):
    """A process has a file of the mount open; its devices must go on being served."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: a process still uses this mount", f"see: fuser -vm {path}")
        self.path = path


@dataclass(slots=True, eq=False)
class MountedEntry:
    """One mounted image. ``uses`` and ``unused_since_s`` change under the books' lock.

    The latest of ``uses`` is the last.
    """

    spec: MountSpec
    path: Path
    mount: ErofsMount
    uses: list[MountedImage] = field(default_factory=list)
    unused_since_s: float = field(default_factory=time.monotonic)
    keep_marks: bool = False

    @property
    def cache_names(self) -> set[str]:
        """Its devices and its bootstrap, as the cache names them."""
        devices = {device.device_id for device in self.spec.devices}
        return devices | {raw_digest(self.spec.bootstrap).hex}


class GivesBack(Protocol):
    """Who hands out uses of mounted images."""

    def give_back(self, entry: MountedEntry, use: MountedImage) -> None:
        """Note that one use has ended."""


class MountedImage:
    """One use of a mounted image; ``release`` exactly once."""

    def __init__(self, mounts: GivesBack, entry: MountedEntry, read_ahead_kib: int) -> None:
        self._mounts = mounts
        self._entry: MountedEntry | None = entry
        self.read_ahead_kib = read_ahead_kib
        self.spec = entry.spec
        self.path = entry.path

    def release(self) -> None:
        """Let go; a second call does nothing."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._mounts.give_back(entry, self)

    def __enter__(self) -> MountedImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def unmount_unused(path: Path) -> None:
    """Unmount, never lazily: whoever still read would see zeros once the handles are closed.

    Raises MountBusy, or OSError.
    """
    try:
        unmount(path)
    except OSError as err:
        if err.errno == errno.EBUSY:
            raise MountBusy(path) from err
        if is_mounted(path):  # else somebody has done it by hand
            raise
