"""The kernel handles of a device, as the keeper holds them: file, fanotify group, journal.

The order is a kernel rule: the file is opened for writing *before* it is marked (a descriptor that
was opened after the mark raises an event at each write, which only the writer could answer), and
marked *before* any file system is mounted on it (a file opened by EROFS before the mark never
raises an event and reads zeros). Needs CAP_SYS_ADMIN.

The ready map is the worker's to open: whoever opens it first after a power loss is handed its
claims, and only the worker can verify them again.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hotstart.core.errors import UserError
from hotstart.kernel import fanotify
from hotstart.kernel.keeper_client import HandleSet
from lazyfs.cache import Cache
from lazyfs.fuse_filler import READ_AHEAD_KIB
from lazyfs.journal import create_journal
from lazyfs.spec import DeviceSpec

KIND = "fill"
"""Sets that the fill worker serves."""


@dataclass(frozen=True, slots=True)
class DeviceMeta:
    """What stands beside a device's descriptors (file, group, journal) in the keeper.

    ``mounted``: the mark may come off once the device is complete. ``recording``: the set belongs
    to a recording of that name and notes what is touched; its mark is on ``marked_path`` alone.
    ``fuse_target``: there is no group; the worker serves the device by FUSE at that directory,
    whose mount reads ahead ``read_ahead_kib``. ``token``: which of the sets that have had the name
    this one is; every set that is made has another.
    """

    device: DeviceSpec
    device_path: str
    ready_path: str
    marked_path: str
    mounted: bool = False
    recording: str = ""
    fuse_target: str = ""
    read_ahead_kib: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def to_json(self) -> dict[str, Any]:
        """Return the keeper's form."""
        return {
            "device": self.device.to_json(),
            "device_path": self.device_path,
            "ready_path": self.ready_path,
            "marked_path": self.marked_path,
            "mounted": self.mounted,
            "recording": self.recording,
            "fuse_target": self.fuse_target,
            "read_ahead_kib": self.read_ahead_kib,
            "token": self.token,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DeviceMeta:
        """Read ``to_json``'s form. Raises UserError for another shape."""
        try:
            return cls(
                DeviceSpec.from_json(value["device"]),
                device_path=value["device_path"],
                ready_path=value["ready_path"],
                marked_path=value["marked_path"],
                mounted=bool(value["mounted"]),
                recording=value["recording"],
                fuse_target=value["fuse_target"],
                read_ahead_kib=int(value["read_ahead_kib"]),
                token=value["token"],
            )
        except (KeyError, TypeError) as err:
            raise UserError(f"not the description of a device set: {err!r}") from err


def device_set_name(device_id: str) -> str:
    """Return the keeper's name of a device's own set."""
    return f"device/{device_id}"


def open_device(cache: Cache, spec: DeviceSpec) -> HandleSet:
    """Make the sparse file if needed, open and mark it; the caller owns the set.

    Raises OSError: no space, or a file system that has no pre-content events (ENOTSUP).
    """
    path = cache.device_path(spec.device_id)
    ready_path = cache.ready_path(spec.device_id)
    with ExitStack() as undo:
        fd = _open_sparse(path, ready_path, spec.size_bytes)
        undo.callback(os.close, fd)
        handles = _marked(fd, path, undo)
        meta = DeviceMeta(spec, str(path), str(ready_path), str(path))
        undo.pop_all()
    return HandleSet(device_set_name(spec.device_id), KIND, meta.to_json(), handles)


def open_fuse_device(cache: Cache, spec: DeviceSpec, target: Path) -> HandleSet:
    """Make the sparse file if needed and open it, for a worker that serves it at ``target``."""
    path = cache.device_path(spec.device_id)
    ready_path = cache.ready_path(spec.device_id)
    fd = _open_sparse(path, ready_path, spec.size_bytes)
    meta = DeviceMeta(
        spec,
        str(path),
        str(ready_path),
        str(path),
        fuse_target=str(target),
        read_ahead_kib=READ_AHEAD_KIB,
    )
    return HandleSet(device_set_name(spec.device_id), KIND, meta.to_json(), [fd])


def fuse_recording_handles(
    meta: DeviceMeta, fd: int, target: Path, recording: str, read_ahead_kib: int
) -> HandleSet:
    """Return a set that is served by FUSE once more, at ``target``, and notes what is read."""
    own = replace(meta, recording=recording, fuse_target=str(target), read_ahead_kib=read_ahead_kib)
    name = f"recording/{recording}/{meta.device.device_id}"
    return HandleSet(name, KIND, own.to_json(), [os.dup(fd)])


def _open_sparse(path: Path, ready_path: Path, size_bytes: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size != size_bytes:
            # Some manifest was wrong. What is cut off reads as zeros later: nothing vouches for it.
            ready_path.unlink(missing_ok=True)
            os.ftruncate(fd, size_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _marked(fd: int, path: Path, undo: ExitStack) -> list[int]:
    group = fanotify.create_group()
    undo.callback(os.close, group)
    fanotify.mark(group, path)
    journal = create_journal()
    undo.callback(os.close, journal)
    return [fd, group, journal]


def recording_handles(meta: DeviceMeta, fd: int, bound: Path, recording: str) -> HandleSet:
    """Return a set whose group sees reads through the mount at ``bound`` only.

    ``fd`` is the device's own descriptor, copied; the caller owns the set.
    """
    with ExitStack() as undo:
        group = fanotify.create_group()
        undo.callback(os.close, group)
        fanotify.mark_mount(group, bound)
        journal = create_journal()
        undo.callback(os.close, journal)
        copy = os.dup(fd)
        undo.pop_all()
    own = DeviceMeta(
        meta.device, meta.device_path, meta.ready_path, str(bound), recording=recording
    )
    name = f"recording/{recording}/{meta.device.device_id}"
    return HandleSet(name, KIND, own.to_json(), [copy, group, journal])
