"""The page cache, emptied and filled on purpose. Only the benchmark does this, and only here.

Emptying concerns the whole machine: every other program pays for it once. Root needed.
"""

from __future__ import annotations

import os
from pathlib import Path

READ_BYTES = 1 << 20


def drop_caches() -> None:
    """Write back everything, then drop clean pages, dentries and inodes of the whole machine."""
    # Dirty pages survive a drop (kernel: Documentation/admin-guide/sysctl/vm.rst, drop_caches).
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def read_tree(top: Path) -> int:
    """Read every regular file below ``top`` once, links not followed; return the bytes read."""
    total = 0
    buffer = memoryview(bytearray(READ_BYTES))
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                total += _read_file(path, buffer)
    return total


def _read_file(path: str, buffer: memoryview) -> int:
    total = 0
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(buffer):
            total += got
    return total
