"""Directory blocks of EROFS: each block stands for itself, names ascend across all of them.

A block begins with its entries (12 bytes each); the names follow, without terminators. The first
entry's name offset tells how many entries there are. ``.`` and ``..`` are entries like any other
and are sorted with the rest: the kernel searches by bisection.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from image_builder.erofs_format import BLOCK, DIRENT

FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

Entry = tuple[bytes, int, int]
"""Name, nid, file type."""


def split_names(names: Sequence[bytes]) -> list[int]:
    """Return how many of the sorted names go into each block."""
    counts: list[int] = []
    used, count = 0, 0
    for name in names:
        need = DIRENT.size + len(name)
        if used + need > BLOCK:
            counts.append(count)
            used, count = 0, 0
        used += need
        count += 1
    counts.append(count)
    return counts


def directory_size(names: Sequence[bytes], counts: Sequence[int]) -> int:
    """Return i_size: whole blocks, and of the last one only what is used."""
    last = names[len(names) - counts[-1] :]
    return (len(counts) - 1) * BLOCK + sum(DIRENT.size + len(name) for name in last)


def encode_directory(entries: Sequence[Entry], counts: Sequence[int]) -> bytes:
    """Return the bytes of the sorted entries, every block but the last padded to its end."""
    blocks = []
    start = 0
    for count in counts:
        blocks.append(_encode_block(entries[start : start + count]))
        start += count
    return b"".join([block.ljust(BLOCK, b"\0") for block in blocks[:-1]] + blocks[-1:])


def _encode_block(entries: Sequence[Entry]) -> bytes:
    heads = bytearray()
    names = bytearray()
    names_at = DIRENT.size * len(entries)
    for name, nid, file_type in entries:
        heads += DIRENT.pack(nid, names_at + len(names), file_type)
        names += name
    return bytes(heads + names)
