"""Reads one pages file of a dump: quickly where its pages are local, else through the mount.

Two ways to the same verified bytes. The mounted file always works: a read of absent data waits for
the fill worker, or fails with EIO for good. The device file below the mount may be read only where
the ready map says so, else it shows zeros; in exchange it costs one pread(2). Nothing here is ever
mapped except the ready map, whose pages are always there: a fault of the page worker in memory that
the fill worker must provide would stop every session. Owns its descriptors; any thread may read.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from hotstart.core.errors import HotstartError
from hotstart.core.span import PAGE
from snapshotter.session_spec import MemoryFileSpec


class MemoryLost(HotstartError):
    """Memory that cannot be read any more: its process must not go on."""

    def __init__(self, path: str, offset: int, number: int) -> None:
        words = os.strerror(number)
        super().__init__(f"{path}: memory at offset {offset} cannot be read: {words}")
        self.path = path
        self.offset = offset
        self.errno = number


class LocalPages(Protocol):
    """Says which pages of a device are local and verified."""

    def missing(self, first: int, pages: int) -> int:
        """Return the first absent page of the run, or -1 if all of them are local."""

    def close(self) -> None:
        """Let go of the map."""


class MemoryFile:
    """One open pages file. ``device_fd`` (owned from here on) may be -1: opened by path then."""

    def __init__(
        self, spec: MemoryFileSpec, local_pages: LocalPages | None, device_fd: int = -1
    ) -> None:
        self.spec = spec
        self._local_pages = local_pages
        self._stack = ExitStack()
        if device_fd >= 0:
            self._stack.callback(os.close, device_fd)
        if local_pages is not None:
            self._stack.callback(local_pages.close)
        try:
            self._mounted_fd = self._open(Path(spec.path))
            if device_fd < 0 and spec.device_path:
                device_fd = self._open(Path(spec.device_path))
        except BaseException:
            self._stack.close()
            raise
        self._local_fd = device_fd if local_pages is not None else self._mounted_fd
        self._shift = spec.device_offset if local_pages is not None else 0

    def _open(self, path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd

    def local(self, offset: int, length: int) -> bool:
        """Tell whether ``length`` bytes from ``offset`` on can be had without waiting."""
        if self._local_pages is None:
            return True
        return self._local_pages.missing((self._shift + offset) // PAGE, length // PAGE) < 0

    def read_local(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from a range that is local. Raises MemoryLost."""
        self._read(self._local_fd, offset, self._shift + offset, view)

    def read_mounted(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` through the mount; may wait for the network. Raises MemoryLost."""
        self._read(self._mounted_fd, offset, offset, view)

    def _read(self, fd: int, offset: int, position: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(fd, [view[done:]], position + done)
            except OSError as err:
                raise MemoryLost(self.spec.path, offset, err.errno or errno.EIO) from err
            if count == 0:
                # A pages file is whole pages: its end inside of a page means it was cut off.
                raise MemoryLost(self.spec.path, offset, errno.ENODATA)
            done += count

    def close(self) -> None:
        """Close every descriptor."""
        self._stack.close()
