"""The measured reads. Each returns milliseconds and what was read, so that it can be checked.

Checks are the caller's and come after the clock: hashing costs more than a warm read.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from bench.page_cache import READ_BYTES, read_file

PAGE = 4096


def read_whole(path: Path) -> tuple[float, bytes]:
    """Read a file in sequence, 1 MiB at a time, into memory that is there already.

    Returns milliseconds, the opening included, and the BLAKE3 of what was read.
    """
    size = path.stat().st_size
    buffer = mmap.mmap(-1, max(size, 1))
    for start in range(0, size, PAGE):
        buffer[start] = 1
    with memoryview(buffer) as view:
        started_s = time.perf_counter()
        place = 0
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(view[place : place + READ_BYTES]):
                place += got
        ms = (time.perf_counter() - started_s) * 1e3
        digest = blake3(view[:place]).digest()
    buffer.close()
    return ms, digest


def read_again(path: Path, times: int) -> float:
    """Return the milliseconds of one sequential read out of the page cache: mean of ``times``."""
    started_s = time.perf_counter()
    for _ in range(times):
        read_file(path)
    return (time.perf_counter() - started_s) * 1e3 / times


def fault_pages(path: Path, offsets: Sequence[int]) -> tuple[float, bytes]:
    """Map a file for random access and copy the pages at ``offsets``.

    Returns milliseconds of all faults, and the BLAKE3 of the pages in this order.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        view.madvise(mmap.MADV_RANDOM)
        started_s = time.perf_counter()
        pages = [view[offset : offset + PAGE] for offset in offsets]
        ms = (time.perf_counter() - started_s) * 1e3
    return ms, blake3(b"".join(pages)).digest()


def walk(top: Path) -> tuple[float, int]:
    """Stat everything below ``top``. Returns milliseconds and the number of entries."""
    entries = 0
    started_s = time.perf_counter()
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            os.lstat(f"{folder}/{name}")
        entries += len(folders) + len(files)
    return (time.perf_counter() - started_s) * 1e3, entries


def time_each(
    names: Sequence[str], read: Callable[[str], bytes], readers: int
) -> list[tuple[str, float, bytes]]:
    """Call ``read`` for each name, ``readers`` at once; return name, milliseconds and answer."""

    def one(name: str) -> tuple[str, float, bytes]:
        started_s = time.perf_counter()
        content = read(name)
        return name, (time.perf_counter() - started_s) * 1e3, content

    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(one, names))


def first_page(path: Path) -> bytes:
    """Open a file and read its first 4 KiB."""
    with path.open("rb", buffering=0) as file:
        return file.read(PAGE)
