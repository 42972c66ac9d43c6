"""Exact recordings: a second mount of an image whose every first read is noted.

Page-cache hits raise no events, so the ordinary mount can't tell what a start touches. A second
EROFS mount has a page cache of its own. Its devices are opened through a bind mount of each device
file, and only that bind mount carries the recording's marks: reads of other containers are not
noted. A small read-ahead makes spans exact; the later restore must use the same one.

Everything made here is undone when the block ends. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hotstart.core.errors import UserError
from hotstart.kernel.erofs import mount_erofs, set_read_ahead
from hotstart.kernel.keeper_client import HandleSet
from hotstart.kernel.mounts import bind, unmount
from hotstart.store.trace import Trace
from lazyfs.device_handles import (
    DeviceMeta,
    device_set_name,
    fuse_recording_handles,
    recording_handles,
)
from lazyfs.fill_client import FillClient
from lazyfs.keeper_guard import KeeperGuard
from lazyfs.spec import DeviceSpec, MountSpec


class Recording:
    """A recording under way; ``path`` is the mount to read through."""

    def __init__(self, path: Path, names: list[str], worker: FillClient) -> None:
        self.path = path
        self._names = names
        self._worker = worker

    def stop(self) -> Trace:
        """Return what was touched; later touches are not noted."""
        return self._worker.record_stop(self._names)


@contextmanager
def record(
    spec: MountSpec,
    bootstrap: Path,
    scratch: Path,
    guard: KeeperGuard,
    worker: FillClient,
    *,
    read_ahead_kib: int,
) -> Iterator[Recording]:
    """Mount ``spec`` once more below ``scratch``; it must be mounted ordinarily already."""
    token = secrets.token_hex(8)
    place = scratch / token
    with ExitStack() as undo:
        place.mkdir()
        undo.callback(place.rmdir)
        names, devices = [], []
        for device in spec.devices:
            name, bound = _bound_device(device, place, token, guard, worker, undo, read_ahead_kib)
            names.append(name)
            devices.append(bound)
        path = place / "mount"
        path.mkdir()
        undo.callback(path.rmdir)
        mounted = mount_erofs(bootstrap, path, devices, may_loop=True)
        undo.callback(unmount, path, detach=True)
        set_read_ahead(mounted, read_ahead_kib)
        yield Recording(path, names, worker)


def _bound_device(
    device: DeviceSpec,
    place: Path,
    token: str,
    guard: KeeperGuard,
    worker: FillClient,
    undo: ExitStack,
    read_ahead_kib: int,
) -> tuple[str, Path]:
    """Bind the device file, mark the bind mount, have it served; return its set and path."""
    own = guard.get(device_set_name(device.device_id))
    if own is None:
        raise UserError(f"device {device.device_id[:12]} is not mounted", "mount the image first")
    meta = DeviceMeta.from_json(own.meta)
    if meta.fuse_target:
        target = place / f"{device.device_id}.fuse"
        target.mkdir()
        undo.callback(target.rmdir)
        held = fuse_recording_handles(meta, own.fds[0], target, token, read_ahead_kib)
        return _served(held, guard, worker, undo), target / "0.dev"
    bound = place / f"{device.device_id}.dev"
    bound.touch()
    undo.callback(bound.unlink)
    bind(meta.device_path, bound)
    undo.callback(unmount, bound, detach=True)
    held = recording_handles(meta, own.fds[0], bound, token)
    return _served(held, guard, worker, undo), bound


def _served(held: HandleSet, guard: KeeperGuard, worker: FillClient, undo: ExitStack) -> str:
    """Have the keeper hold a set and the worker serve it; return its name."""
    name = held.name
    token = held.meta["token"]
    guard.put(held)
    undo.callback(guard.drop, name)
    worker.attach(name, token)
    undo.callback(worker.detach, name, token)
    return name
