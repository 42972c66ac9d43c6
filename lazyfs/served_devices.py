"""Devices being served: each opened, marked, held by the keeper and known to the worker once.

Users claim a device; the last release lets it go everywhere. A claim is taken *before* a file
system is mounted on the device and given back only after it is unmounted: a device whose group is
closed under a mount reads zeros. One lock a device, since attaching may verify all of it, and other
devices must not wait for that; methods may be called from any thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hotstart.core.errors import IntegrityError, Unavailable
from hotstart.kernel.keeper_client import HandleSet
from lazyfs.cache import Cache
from lazyfs.cache_contents import CacheEntry
from lazyfs.descriptor_room import check_devices
from lazyfs.device_handles import (
    KIND,
    DeviceMeta,
    device_set_name,
    open_device,
    open_fuse_device,
)
from lazyfs.fill_client import FillClient
from lazyfs.keeper_guard import KeeperGuard
from lazyfs.name_locks import NameLocks
from lazyfs.spec import DeviceSpec

FANOTIFY, FUSE = "fanotify", "fuse"


class DeviceDisagreed(IntegrityError):
    """Two manifests say different things of one chunk table: at least one of them is wrong."""

    def __init__(self, device_id: str) -> None:
        super().__init__(
            f"device {device_id[:12]} is in use, and another manifest says something else of its "
            "size or chunk table: one of the two images is damaged"
        )
        self.device_id = device_id


class ServedDevices:
    """Claims on the devices of one root."""

    def __init__(
        self, cache: Cache, guard: KeeperGuard, worker: FillClient, filler: str, fuse_dir: Path
    ) -> None:
        self.filler = filler
        self._cache = cache
        self._guard = guard
        self._worker = worker
        self._fuse_dir = fuse_dir
        self._fuse_dir.mkdir(parents=True, exist_ok=True)
        self._limit = guard.descriptor_limit()
        self._locks = NameLocks()
        self._claims: Counter[str] = Counter()
        self.removals = 0
        """How many devices ``remove_unused`` has deleted."""

    def claim(self, spec: DeviceSpec) -> None:
        """Have the device served until ``release``.

        Raises OSError, DescriptorsShort, GroupsExhausted, what the worker raises, and
        DeviceDisagreed: one file has one size.
        """
        name = device_set_name(spec.device_id)
        with self._locks.holding(spec.device_id):
            held = self._guard.get(name)
            if held is not None and not self._claims[spec.device_id]:
                self._end(held)  # it could not be ended when its last claim was given back
                held = None
            if held is None:
                check_devices(self._limit, len(self._guard.names(KIND)) + 1)
                held = self._open(spec)
                self._guard.put(held)
            _check_agreed(spec, held)
            self._claims[spec.device_id] += 1
            try:
                self._worker.attach(name, held.meta["token"])
            except BaseException:
                self._release(spec.device_id)
                raise

    def release(self, device_id: str) -> None:
        """Give one claim back; the last one ends the serving."""
        with self._locks.holding(device_id):
            self._release(device_id)

    def remove_unused(self, entry: CacheEntry) -> bool:
        """Delete a device of the cache unless it is claimed or held; False if it is."""
        with self._locks.holding(entry.name):
            name = device_set_name(entry.name)
            if self._claims[entry.name] or self._guard.get(name) is not None:
                return False
            self.removals += 1  # before it: what is killed in between counts as gone
            entry.remove()
            return True

    def mounted(self, specs: Iterable[DeviceSpec]) -> None:
        """Say that devices are mounted: complete ones lose their mark, now or later."""
        for spec in specs:
            name = device_set_name(spec.device_id)
            held = self._guard.get(name)
            if held is not None and not held.meta["mounted"]:
                self._guard.update_meta(name, {**held.meta, "mounted": True})
            self._worker.mounted(name)

    def path_for_erofs(self, spec: DeviceSpec) -> Path:
        """Return what EROFS opens as the device."""
        if self.filler == FANOTIFY:
            return self._cache.device_path(spec.device_id)
        return self._fuse_dir / spec.device_id / "0.dev"

    def adopt(self, mounted: Iterable[DeviceSpec]) -> None:
        """Take the claims of mounts that an earlier agent made; let go of every other set.

        Before anything is claimed.
        """
        self._claims.update(spec.device_id for spec in mounted)
        for name in self._guard.names(KIND):
            held = self._guard.get(name)
            if held is None:
                continue
            meta = DeviceMeta.from_json(held.meta)
            if meta.recording or not self._claims[meta.device.device_id]:
                self._worker.detach(name, meta.token)
                self._guard.drop(name)

    def _release(self, device_id: str) -> None:
        self._claims[device_id] -= 1
        if self._claims[device_id] <= 0:
            del self._claims[device_id]
            held = self._guard.get(device_set_name(device_id))
            if held is not None:
                self._end(held)

    def _end(self, held: HandleSet) -> None:
        """Let go of a set; one whose end the worker can't be told is held on to.

        The worker would keep its copies, with a mark on the file: whatever opens the file from then
        on raises an event at each write, and nobody answers.
        """
        self._worker.detach(held.name, held.meta["token"])
        self._guard.drop(held.name)

    def _open(self, spec: DeviceSpec) -> HandleSet:
        if spec.is_weights and not self._cache.objects_path(spec.device_id).exists():
            # Evicted since it was listed; from now on it is in use, and stays.
            raise Unavailable(f"{spec.store_url}: its listing was removed again", "try again")
        if self.filler == FANOTIFY:
            return open_device(self._cache, spec)
        target = self._fuse_dir / spec.device_id
        target.mkdir(exist_ok=True)
        return open_fuse_device(self._cache, spec, target)


def _check_agreed(spec: DeviceSpec, held: HandleSet) -> None:
    """Raise DeviceDisagreed unless a set is of the same device; which store it is in may differ."""
    served = DeviceMeta.from_json(held.meta).device
    if replace(spec, store_url=served.store_url).to_json() != served.to_json():
        raise DeviceDisagreed(spec.device_id)
