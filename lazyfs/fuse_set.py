"""A device that the fill worker serves by FUSE, where the kernel has no pre-content events."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hotstart.core.log import get_logger
from hotstart.kernel.mounts import is_mounted, unmount
from lazyfs.device import Device
from lazyfs.fill_engine import FillEngine
from lazyfs.fuse_filler import READ_AHEAD_KIB, FlatDevice, FlatFiles
from lazyfs.touches import TouchLog

log = get_logger(__name__)


class FuseSet:
    """A device served as the file ``0.dev`` of a FUSE mount at ``target``, an empty directory.

    A mount that a killed predecessor left there is dead for good and is cleared away; what was
    mounted above it fails (ENOTCONN) until the image is mounted anew.
    """

    def __init__(
        self,
        device: Device,
        engine: FillEngine,
        target: Path,
        *,
        owns_device: bool = True,
        read_ahead_kib: int = READ_AHEAD_KIB,
    ) -> None:
        self.device = device
        self._flat = FlatDevice(device, engine, owns_device=owns_device)
        self._files = FlatFiles([self._flat])
        if is_mounted(target):
            log.warning("dead_fuse_mount_removed", path=target)
            unmount(target, detach=True)
        self._files.mount(target, read_ahead_kib=read_ahead_kib)

    @property
    def touches(self) -> TouchLog:
        """What readers touch, while it is active."""
        return self._flat.touches

    def close(self) -> None:
        """Unmount and close. Nothing may be mounted above it any more."""
        with suppress(OSError):  # busy: somebody reads on; the mount goes with this process
            self._files.close()
