"""The page cache, emptied and filled on purpose. Only the benchmark does this, and only here.

Emptying concerns the whole machine: every other program pays for it once. Root needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

READ_BYTES = 1 << 20


class PageCache:
    """Empties the page cache, counts how often, and reads again what is not to be cold.

    ``keep``: files and trees that other measured paths take for granted, such as the programs of
    this host and the far store's data.
    """

    def __init__(self, keep: Iterable[Path] = ()) -> None:
        self.drops = 0
        self._keep = tuple(keep)

    def drop(self) -> None:
        """Empty the page cache of the whole machine."""
        self.drops += 1
        drop_caches()

    def read_kept(self) -> None:
        """Read what is to be kept."""
        for path in self._keep:
            if path.is_dir():
                read_tree(path)
            elif path.is_file():
                read_file(path)


def drop_caches() -> None:
    """Write back everything, then drop clean pages, dentries and inodes of the whole machine."""
    # Dirty pages survive a drop (kernel: Documentation/admin-guide/sysctl/vm.rst, drop_caches).
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def read_tree(top: Path) -> int:
    """Read every regular file below ``top`` once, links not followed; return the bytes read."""
    total = 0
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                total += read_file(path)
    return total


def forget_file(path: Path) -> None:
    """Drop a file's clean pages that nobody maps, so that the next reader fills the cache anew."""
    os.sync()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_file(path: Path) -> int:
    """Read one file in sequence; return the bytes read."""
    total = 0
    buffer = memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            total += got
    return total
