"""The FUSE side of filling, for kernels without pre-content events: a flat file for each device.

A FUSE file system with the files ``0.dev``, ``1.dev``... lies beneath the EROFS mount. A read asks
the same engine as a fanotify event would, waits, and is answered out of the local device file;
bytes once read stay in the page cache. Nothing fails open here: if this process dies, reads get
ENOTCONN, never zeros, and the image has to be mounted anew (there is no taking over).

``FlatFiles`` serves until its mount point is unmounted. libfuse calls it from many threads. The
process must not read the EROFS mount that lies above. Root is needed to mount.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mfusepy

from hotstart.core.errors import Unavailable, Unsupported
from hotstart.core.log import get_logger
from hotstart.kernel.libc import ignore_broken_pipes
from hotstart.kernel.mounts import is_mounted, unmount
from lazyfs.device import Device
from lazyfs.disk_space import errno_for_reader
from lazyfs.fault import Fault
from lazyfs.fill_engine import FillEngine
from lazyfs.pieces import page_run
from lazyfs.touches import TouchLog

log = get_logger(__name__)

READ_AHEAD_KIB = 1024
"""On the FUSE mount's own bdi: larger requests for Python, set before EROFS opens the devices."""
_START_S = 10.0
_IDLE_S = 10.0
_POLL_S = 0.005


class FuseMountFailed(Unavailable):
    """The FUSE file system did not come up."""

    def __init__(self, target: Path, why: str) -> None:
        super().__init__(f"{target}: the FUSE mount failed: {why}")
        self.target = target


class FlatDevice:
    """One device as a readable file. Takes over the device, unless it is another's."""

    def __init__(self, device: Device, engine: FillEngine, *, owns_device: bool = True) -> None:
        self._owns_device = owns_device
        self.device = device
        self.touches = TouchLog()
        self._engine = engine

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self.device.spec.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; absent ones are filled. Raises OSError (EIO, ENOSPC)."""
        length = min(length, self.size_bytes - offset)
        if length <= 0:
            return b""
        first, pages = page_run(offset, length)
        self.device.counters.faults += 1
        if self.touches.active:
            self.touches.add(first, pages)
        absent = self.device.ready.missing(first, pages) >= 0
        self._engine.accessed(self.device, first, pages, missed=absent)
        if absent:
            self._fill(first, pages)
        content = os.pread(self.device.fd, length, offset)
        if len(content) != length:
            raise OSError(errno.EIO, f"device file ends before byte {offset + length}")
        return content

    def _fill(self, first: int, pages: int) -> None:
        done = threading.Event()
        errors: list[BaseException] = []

        def answer(error: BaseException | None) -> None:
            if error is not None:
                errors.append(error)
            done.set()

        self.device.counters.misses += 1
        self._engine.request(Fault(self.device, first, pages, answer, time.monotonic()))
        done.wait()  # the engine answers each fault, at the latest when its patience ends
        if errors:
            raise OSError(errno_for_reader(errors[0]), str(errors[0])) from errors[0]

    def close(self) -> None:
        """Close the device."""
        if self._owns_device:
            self.device.close()


class _Operations(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """What libfuse asks. Times are nanoseconds."""

    use_ns = True

    def __init__(self, files: Mapping[str, FlatDevice]) -> None:
        self._files = files

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Return the attributes of the root or of one file."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2}
        size = self._find(path).size_bytes
        return {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, "st_size": size}

    def readdir(self, path: str, fh: int) -> list[str]:
        """List the files."""
        return [".", "..", *(name[1:] for name in self._files)]

    def open(self, path: str, flags: int) -> int:
        """Any number of readers may open a file; the number stands for nothing."""
        self._find(path)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Return bytes, or fail with EIO or ENOSPC."""
        return self._find(path).read(offset, size)

    def _find(self, path: str) -> FlatDevice:
        found = self._files.get(path)
        if found is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return found


class FlatFiles:
    """A mounted set of device files. Takes over the devices; ``close`` unmounts and closes them.

    Whatever mounts the files (EROFS) must be unmounted before.
    """

    def __init__(self, devices: Sequence[FlatDevice]) -> None:
        self.devices = tuple(devices)
        self._target: Path | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def mount(self, target: Path, *, read_ahead_kib: int = READ_AHEAD_KIB) -> list[Path]:
        """Mount at an empty directory and return the device files in order.

        Raises Unsupported without /dev/fuse or libfuse, FuseMountFailed.
        """
        if not os.path.exists("/dev/fuse"):
            raise Unsupported("/dev/fuse is missing: the kernel has no FUSE (modprobe fuse)")
        self._target = target
        self._thread = threading.Thread(target=self._serve, args=(target,), name="fuse")
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not is_mounted(target):
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise FuseMountFailed(target, str(self._error or "libfuse gave no reason"))
            time.sleep(_POLL_S)
        _set_read_ahead(target, read_ahead_kib)
        return [target / f"{number}.dev" for number in range(len(self.devices))]

    def _serve(self, target: Path) -> None:
        files = {f"/{number}.dev": device for number, device in enumerate(self.devices)}
        options: dict[str, Any] = {"fsname": "hotstart", "ro": True, "kernel_cache": True}
        try:
            mfusepy.FUSE(_Operations(files), str(target), foreground=True, **options)
        except BaseException as err:
            self._error = err
            # The reason is enough here; mount() raises it.
            log.error("fuse_ended", target=target, error=str(err))  # noqa: TRY400
        finally:
            ignore_broken_pipes()

    def close(self) -> None:
        """Unmount, wait for the last read, and close every device.

        Raises OSError (EBUSY) if somebody still holds a file; then everything goes on as before.
        """
        if self._target is not None:
            _unmount_when_idle(self._target)
        if self._thread is not None:
            self._thread.join()
        for device in self.devices:
            device.close()


def _unmount_when_idle(target: Path) -> None:
    """Unmount. The kernel lets go of an unmounted EROFS's devices when its last read-ahead ends."""
    deadline = time.monotonic() + _IDLE_S
    while is_mounted(target):
        try:
            unmount(target)
        except OSError as err:
            if err.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def _set_read_ahead(target: Path, kib: int) -> None:
    """Set the FUSE mount's own read-ahead; its bdi is named by the mount's device number."""
    number = os.stat(target).st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    bdi.write_text(str(kib))
