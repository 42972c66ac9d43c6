"""Mounted images: one EROFS mount an image, however many use it; devices shared between images.

Order (kernel rules): device file opened -> marked -> keeper holds it -> worker serves it -> mounted
-> read-ahead set -> marks of complete devices come off. A failed step undoes itself.

A mount that nobody uses any more stays, because its page cache is what makes the next start warm;
at most ``idle_limit`` of them, the one unused longest goes first. Mounts are known to the keeper
too, so that the next agent adopts them. One lock per image orders its steps; one guards the books
and is held for no step, so that no image waits for another. Methods may be called from any thread.
Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hotstart.core.errors import Conflict, HotstartError, UserError
from hotstart.core.log import get_logger
from hotstart.kernel.erofs import ErofsMount, mount_erofs, set_read_ahead
from hotstart.kernel.keeper_client import HandleSet
from hotstart.kernel.mounts import is_mounted, mounts_below, unmount
from hotstart.store.layers import raw_digest
from hotstart.store.ready_map import is_complete
from hotstart.store.trace import Trace
from lazyfs.cache import Cache
from lazyfs.cache_contents import CacheEntry
from lazyfs.checked_bootstraps import checked_bootstrap, walk_unchecked
from lazyfs.device_handles import device_set_name
from lazyfs.fill_client import FillClient
from lazyfs.keeper_guard import KeeperGuard
from lazyfs.mount_stats import MountStats
from lazyfs.mounted_image import MountBusy, MountedEntry, MountedImage, unmount_unused
from lazyfs.name_locks import NameLocks
from lazyfs.plans import BundlePlan, Plan, TracePlan
from lazyfs.recording import Recording, record
from lazyfs.served_devices import FANOTIFY, FUSE, ServedDevices
from lazyfs.spec import DeviceSpec, MountSpec
from lazyfs.stores import StorePool

log = get_logger(__name__)

MOUNT_KIND = "mount"
IDLE_LIMIT = 16


class ImageMounts:
    """The mounts of one root."""

    def __init__(
        self,
        root: Path,
        cache: Cache,
        guard: KeeperGuard,
        worker: FillClient,
        *,
        filler: str = FANOTIFY,
        idle_limit: int = IDLE_LIMIT,
        stores: StorePool | None = None,
    ) -> None:
        """``filler`` is FANOTIFY or FUSE; which one a host can have, the probes say.

        Bootstraps are read through ``stores``.
        """
        self.filler = filler
        self._devices = ServedDevices(cache, guard, worker, filler, root / "run" / "fuse")
        self._prepared: dict[str, list[ExitStack]] = {}
        self._directory = root / "mounts"
        self._scratch = root / "run" / "recording"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cache = cache
        self._guard = guard
        self._worker = worker
        self._stores = stores if stores is not None else StorePool()
        self._idle_limit = idle_limit
        self._lock = threading.Lock()
        self._images = NameLocks()
        self._entries: dict[str, MountedEntry] = {}
        self.lost: tuple[Path, ...] = ()
        """Mounts that ``adopt`` found without handles: what runs on them may have read zeros."""

    def adopt(self) -> int:
        """Take over an earlier agent's mounts, clear away what is half there; returns how many.

        Before anything else is asked for.
        """
        for name in self._guard.names(MOUNT_KIND):
            self._adopt_one(name)
        known = {os.path.realpath(entry.path) for entry in self._entries.values()}
        lost = [Path(m.target) for m in mounts_below(self._directory) if m.target not in known]
        self.lost = tuple(lost)
        for path in lost:
            log.error("mount_lost", path=path, reason="its handles died with their holders")
            unmount(path, detach=True)
        for stale in mounts_below(self._scratch):
            unmount(stale.target, detach=True)
        self._devices.adopt(
            device for entry in self._entries.values() for device in entry.spec.devices
        )
        return len(self._entries)

    def _adopt_one(self, name: str) -> None:
        held = self._guard.get(name)
        if held is None:
            return
        spec = MountSpec.from_json(held.meta["spec"])
        path = Path(held.meta["path"])
        if is_mounted(path):
            bdis = tuple(held.meta["bdis"])
            self._entries[spec.manifest] = MountedEntry(spec, path, ErofsMount(path, bdis))
            walk_unchecked(self._cache, spec)
        else:
            self._guard.drop(name)

    def prepare(self, *specs: MountSpec) -> None:
        """Have the devices served before they are mounted, so that a prefetch can begin at once.

        Those of all images, or of none. ``mount`` follows; without it they stay served until the
        image is mounted another time. No failure takes away what others prepared.
        """
        with ExitStack() as undo:
            for spec in specs:
                with self._images.holding(spec.manifest):
                    if spec.manifest not in self._entries:
                        claims = ExitStack()
                        self._claim(spec, claims)
                        self._prepared.setdefault(spec.manifest, []).append(claims)
                        undo.callback(self._give_up, spec.manifest, claims)
            undo.pop_all()

    def _give_up(self, manifest: str, *claims: ExitStack) -> None:
        with self._images.holding(manifest):
            self._unprepare(manifest, claims)

    def mount(
        self, spec: MountSpec, *, read_ahead_kib: int, keep_marks: bool = False
    ) -> MountedImage:
        """Mount an image, or use the mount that is there; files opened next read ahead so far.

        Of several uses the latest says how far; when it is released, the one before it again.
        With ``keep_marks`` complete devices keep raising events, for a recording on this mount.
        Raises Unsupported (kernel, file system), what the store raises for the bootstrap, OSError.
        """
        with self._images.holding(spec.manifest):
            with self._lock:
                entry = self._entries.get(spec.manifest)
            try:
                if entry is None:
                    entry = self._mount_new(spec, read_ahead_kib, keep_marks=keep_marks)
                else:
                    set_read_ahead(entry.mount, read_ahead_kib)
            except BaseException:
                self._unprepare(spec.manifest, self._prepared.get(spec.manifest, [])[-1:])
                raise
            self._unprepare(spec.manifest, self._prepared.get(spec.manifest, []))
            use = MountedImage(self, entry, read_ahead_kib)
            with self._lock:  # the last step: nothing can fail any more
                entry.uses.append(use)
                self._entries[spec.manifest] = entry
            self._cache.touch(spec)
        return use

    def _mount_new(self, spec: MountSpec, read_ahead_kib: int, *, keep_marks: bool) -> MountedEntry:
        with self._cache.using(raw_digest(spec.bootstrap).hex):
            return self._mount_held(spec, read_ahead_kib, keep_marks=keep_marks)

    def _mount_held(
        self, spec: MountSpec, read_ahead_kib: int, *, keep_marks: bool
    ) -> MountedEntry:
        blobs = self._stores.get(spec.store_url).blobs
        bootstrap = checked_bootstrap(self._cache, spec, blobs)
        path = self._directory / spec.manifest
        path.mkdir(exist_ok=True)
        with ExitStack() as undo:
            undo.callback(path.rmdir)
            self._claim(spec, undo)
            devices = [self._devices.path_for_erofs(device) for device in spec.devices]
            # Containers get their set-user-id programs through an overlay; the host gets none.
            mount = mount_erofs(
                bootstrap, path, devices, nosuid=True, nodev=True, may_loop=self.filler == FUSE
            )
            undo.callback(unmount, path, detach=True)
            set_read_ahead(mount, read_ahead_kib)
            meta = {"spec": spec.to_json(), "path": str(path), "bdis": list(mount.bdis)}
            self._guard.put(HandleSet(f"mount/{spec.manifest}", MOUNT_KIND, meta, []))
            undo.callback(self._guard.drop, f"mount/{spec.manifest}")
            if not keep_marks:
                self._devices.mounted(spec.devices)
            undo.pop_all()
        return MountedEntry(spec, path, mount, keep_marks=keep_marks)

    def _claim(self, spec: MountSpec, undo: ExitStack) -> None:
        """Claim every device of an image, or none."""
        with ExitStack() as claimed:
            for device in spec.devices:
                self._devices.claim(device)
                claimed.callback(self._devices.release, device.device_id)
            undo.push(claimed.pop_all())

    def _unclaim(self, spec: MountSpec) -> None:
        """Give every claim back, even if one fails."""
        with ExitStack() as steps:
            for device in spec.devices:
                steps.callback(self._devices.release, device.device_id)

    def _unprepare(self, manifest: str, claims: Sequence[ExitStack]) -> None:
        """Give back what calls of ``prepare`` claimed. Under the image's lock."""
        left = [one for one in self._prepared.pop(manifest, []) if one not in claims]
        if left:
            self._prepared[manifest] = left
        for one in claims:
            one.close()

    def give_back(self, entry: MountedEntry, use: MountedImage) -> None:
        """Note that one user is gone; unmount what has been idle longest beyond the limit."""
        with self._images.holding(entry.spec.manifest):
            with self._lock:
                entry.uses.remove(use)
                entry.unused_since_s = time.monotonic()
                latest = entry.uses[-1:]
            self._cache.touch(entry.spec)
            if not latest:  # what is fetched in vain is no matter of whoever lets go
                with suppress(HotstartError):
                    self._worker.stop_traces([one.device_id for one in entry.spec.devices])
            for one in latest:
                with suppress(OSError):  # reads of the uses that are left are slower or faster
                    set_read_ahead(entry.mount, one.read_ahead_kib)
        for idle in self._surplus():
            try:
                self.unmount(idle.spec.manifest)
            except MountBusy:
                continue  # it stays, idle, until the next one goes
            except (HotstartError, OSError) as err:  # no matter of whoever lets go of another
                log.warning("idle_mount_not_ended", path=idle.path, reason=err)

    def _surplus(self) -> list[MountedEntry]:
        with self._lock:
            idle = [entry for entry in self._entries.values() if not entry.uses]
        idle.sort(key=lambda entry: entry.unused_since_s)
        return idle[: max(0, len(idle) - self._idle_limit)]

    def unmount(self, manifest: str) -> bool:
        """Unmount an image that nobody uses; False if somebody does or it isn't mounted.

        Raises MountBusy when a process still has a file of it open.
        """
        with self._images.holding(manifest):
            with self._lock:
                entry = self._entries.get(manifest)
            if entry is None or entry.uses:  # users come only under the image's lock
                return False
            unmount_unused(entry.path)
            self._forget(entry)
            return True

    def end_idle(self, name: str) -> bool:
        """Unmount what is mounted on a device or bootstrap of the cache and used by nobody.

        ``name`` as in cache_contents.py. False if anything of it is in use. Raises MountBusy.
        """
        with self._lock:
            mounted = [entry for entry in self._entries.values() if name in entry.cache_names]
            if any(entry.uses for entry in mounted):
                return False
        return all(self.unmount(entry.spec.manifest) for entry in mounted)

    def remove_unused(self, entry: CacheEntry) -> bool:
        """Delete an entry of the cache that no mount uses; False, and all of it stays, if one does.

        Whoever wants to use it meanwhile waits, and then finds none.
        """
        with ExitStack() as held:
            for digest in sorted(entry.bootstraps):
                held.enter_context(self._cache.using(digest))
            if entry.is_device:
                return self._devices.remove_unused(entry)
            with self._lock:
                if any(entry.name in mounted.cache_names for mounted in self._entries.values()):
                    return False
            entry.remove()
            return True

    @property
    def removals(self) -> int:
        """How many devices were deleted from the cache so far."""
        return self._devices.removals

    def unmount_all(self) -> None:
        """Unmount everything. Raises Conflict if a mount is in use, MountBusy for an open file."""
        self._refuse_used()
        with self._lock:
            manifests = list(self._entries)
        for manifest in manifests:
            self.unmount(manifest)
        for manifest, claims in list(self._prepared.items()):
            self._give_up(manifest, *claims)
        self._refuse_used()  # one that was mounted meanwhile

    def _refuse_used(self) -> None:
        with self._lock:
            used = [e.spec.manifest[:12] for e in self._entries.values() if e.uses]
        if used:
            raise Conflict(f"images are in use: {', '.join(used)}", "stop their containers")

    def _forget(self, entry: MountedEntry) -> None:
        """Let go of what an unmounted image held: all of it, even if a step fails."""
        manifest = entry.spec.manifest
        with self._lock:
            del self._entries[manifest]
        with ExitStack() as steps:
            steps.callback(self._unclaim, entry.spec)
            steps.callback(self._guard.drop, f"mount/{manifest}")
            steps.callback(entry.path.rmdir)

    def prefetch(self, name: str, plan: Plan) -> int:
        """Begin to fetch for the mounted image ``name`` (its manifest in hex); returns a job.

        A bundle and a trace reach every device they name, whichever mount it belongs to.
        """
        return self._worker.prefetch(self._devices_of(name, plan), plan)

    def wait(self, job: int, check: Callable[[], object] | None = None) -> dict[str, Any]:
        """Wait for a prefetch. Raises what made it fail, PrefetchFailed, SetUnknown.

        What ``check``, called now and then, raises stops the prefetch, and is raised.
        """
        return self._worker.wait(job, check)

    def _devices_of(self, name: str, plan: Plan) -> tuple[str, ...]:
        match plan:
            case BundlePlan(index=index):
                return index.device_ids
            case TracePlan(trace):
                return trace.device_ids
            case _:
                return tuple(device.device_id for device in self._entry(name).spec.devices)

    def _entry(self, name: str) -> MountedEntry:
        with self._lock:
            entry = self._entries.get(name)
        if entry is None:
            raise UserError(f"image {name[:12]} is not mounted", "mount it first")
        return entry

    def is_local(self, spec: MountSpec) -> bool:
        """Tell whether every byte of an image is here."""
        return all(self._is_complete(device) for device in spec.devices)

    def _is_complete(self, device: DeviceSpec) -> bool:
        cache, device_id = self._cache, device.device_id
        path = cache.device_path(device_id)
        return is_complete(cache.ready_path(device_id), device_id, device.pages, device=path)

    def record_start(self, name: str) -> None:
        """Begin to note what is touched on the image's own mount (made with ``keep_marks``)."""
        devices = self._entry(name).spec.devices
        self._worker.record_start([device.device_id for device in devices])

    def record_stop(self, name: str) -> Trace:
        """End noting, let complete devices lose their marks, and return what was touched."""
        entry = self._entry(name)
        names = [device_set_name(device.device_id) for device in entry.spec.devices]
        trace = self._worker.record_stop(names)
        entry.keep_marks = False
        self._devices.mounted(entry.spec.devices)
        return trace

    @contextmanager
    def mount_recording(self, spec: MountSpec, *, read_ahead_kib: int) -> Iterator[Recording]:
        """Mount an image a second time, apart, and note exactly what is touched there."""
        with self.mount(spec, read_ahead_kib=read_ahead_kib):
            blobs = self._stores.get(spec.store_url).blobs
            bootstrap = checked_bootstrap(self._cache, spec, blobs)
            with record(
                spec,
                bootstrap,
                self._scratch,
                self._guard,
                self._worker,
                read_ahead_kib=read_ahead_kib,
            ) as recording:
                yield recording

    def stats(self, devices: Mapping[str, dict[str, Any]] | None = None) -> list[MountStats]:
        """Return every mount with its counters: the worker's, or those given by device id."""
        if devices is None:
            devices = self._worker.stats()
        with self._lock:
            return [
                MountStats.of(entry.spec, entry.path, len(entry.uses), devices)
                for entry in self._entries.values()
            ]
