"""Keeps the cache below its quota and makes room on a full disk: the agent's side.

What goes is a whole entry of the cache (cache_contents.py), the one unused longest first. Never: a
device that a mount, a start or a pull uses, or whose handles keeper or agent hold; a pinned image.
A mount that stays only because its page cache is warm is no use: it is ended first. The quota never
fails a reader: if nothing may go, the cache grows beyond it, with one warning.

One lock orders evictions; each entry is removed under the lock of its device or bootstrap, so that
nobody begins to use it meanwhile. Methods may be called from any thread and block while files are
deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from lazyfs.cache_contents import CacheEntry, scan
from lazyfs.cache_quota import read_quota
from lazyfs.disk_space import FreeSpace
from lazyfs.image_mounts import ImageMounts
from lazyfs.pins import Pins

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a check of the quota has found and done, in bytes on disk."""

    allocated_bytes: int
    evicted_bytes: int
    quota_bytes: int | None

    @property
    def over_quota(self) -> bool:
        """Whether there is more than allowed and nothing of it may go."""
        return self.quota_bytes is not None and self.allocated_bytes > self.quota_bytes


class Evictor:
    """The evictions of one root."""

    def __init__(self, root: Path, mounts: ImageMounts) -> None:
        self._root = root
        self._cache = root / "cache"
        self._mounts = mounts
        self._pins = Pins(root)
        self._lock = threading.Lock()
        self._warned = False

    def enforce_quota(self) -> CacheUse:
        """Evict until the quota is kept, or nothing more may go."""
        with self._lock:
            quota, evicted = read_quota(self._root), 0
            allocated = scan(self._cache).allocated_bytes
            if quota is not None and allocated > quota:
                surplus = allocated - quota
                evicted = self._evict(lambda freed: freed >= surplus, why="quota")
                allocated = scan(self._cache).allocated_bytes
            use = CacheUse(allocated, evicted, quota)
            self._warn(use)
        return use

    def make_room(self, wanted: int) -> bool:
        """Evict until ``wanted`` bytes fit on the disk; False if there is no room for them."""

        def fits(_: int) -> bool:
            return FreeSpace.of(self._cache).beyond_reserve >= wanted

        with self._lock:
            if not fits(0):
                self._evict(fits, why="disk full")
            return fits(0)

    def _evict(self, enough: Callable[[int], bool], *, why: str) -> int:
        freed = 0
        for entry in scan(self._cache).entries:
            if enough(freed):
                break
            if self._may_go(entry) and self._remove(entry):
                freed += entry.allocated_bytes
                log.info("cache_evicted", name=entry.name, bytes=entry.allocated_bytes, why=why)
        return freed

    def _may_go(self, entry: CacheEntry) -> bool:
        """Tell whether nobody wants it; idle mounts of it are ended."""
        # Read anew for each: what is pinned while others are deleted stays.
        if self._pins.names() & {entry.name, *entry.bootstraps}:
            return False
        try:
            return self._mounts.end_idle(entry.name)
        except (HotstartError, OSError) as err:
            log.info("cache_entry_busy", name=entry.name, reason=err)
            return False

    def _remove(self, entry: CacheEntry) -> bool:
        try:
            return self._mounts.remove_unused(entry)
        except OSError as err:
            log.warning("cache_entry_not_removed", name=entry.name, reason=err)
            return False

    def _warn(self, use: CacheUse) -> None:
        if use.over_quota and not self._warned:
            log.warning(
                "cache_over_quota",
                bytes=use.allocated_bytes,
                quota=use.quota_bytes,
                reason="what is left is in use or pinned; reads go on",
            )
        self._warned = use.over_quota
