"""Whether a bootstrap may be mounted: what the kernel would follow is followed here first.

Pure. A bootstrap from a store that others write is hostile input to a file system of the kernel.
Accepted is what docs/formats/bootstrap.md describes and nothing else: known features; inodes,
attributes, directories and chunks inside the image and the devices; names sorted and unique; a tree
without cycles in which every inode is reached, with as many links as it says; nothing used twice.
Work is bounded by the size of the image, which is bounded (bootstrap_head.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

from hotstart.store.bootstrap_head import BLOCK, BootstrapHead, BootstrapInvalid, parse_head
from hotstart.store.bootstrap_inode import DIRECTORY, SYMLINK, Inode, InodeReader

_DIRENT_BYTES = 12
_MAX_NAME = 255

__all__ = ["BootstrapInvalid", "check_bootstrap_image"]


def check_bootstrap_image(image: bytes) -> BootstrapHead:
    """Return the head of a bootstrap that is well-formed throughout. Raises BootstrapInvalid."""
    head = parse_head(image)
    _Walk(image, head).run()
    return head


class _Walk:
    """One walk through an image, directory by directory."""

    def __init__(self, image: bytes, head: BootstrapHead) -> None:
        self._image = image
        self._head = head
        self._reader = InodeReader(image, head)
        self._inodes: dict[int, Inode] = {}
        self._links: dict[int, int] = {}
        self._extents: list[tuple[int, int]] = [(0, head.first_inode)]

    def run(self) -> None:
        root = self._inode(self._head.root_nid)
        if root.kind != DIRECTORY:
            raise BootstrapInvalid("the root is not a directory")
        self._links[self._head.root_nid] = 2
        pending = [(self._head.root_nid, self._head.root_nid)]
        while pending:
            pending.extend(self._directory(*pending.pop()))
        if len(self._inodes) != self._head.inodes:
            raise BootstrapInvalid(
                f"says it has {self._head.inodes} inodes, {len(self._inodes)} are reached"
            )
        for nid, inode in self._inodes.items():
            if inode.links != self._links[nid]:
                raise BootstrapInvalid(f"inode {nid}: {inode.links} links, not as many as names")
        self._check_disjoint()

    def _inode(self, nid: int) -> Inode:
        """Read an inode that is reached for the first time."""
        if len(self._inodes) >= self._head.inodes:
            raise BootstrapInvalid(f"more inodes than {self._head.inodes} are reached")
        inode = self._inodes[nid] = self._reader.read(nid)
        self._extents.append((inode.start, inode.end))
        whole = inode.size - (inode.end - inode.tail_at)
        if inode.blocks_at >= 0 and whole > 0:
            end = inode.blocks_at + -(-whole // BLOCK) * BLOCK
            self._reader.spend(end - inode.blocks_at)
            self._extents.append((inode.blocks_at, end))
        if inode.kind == SYMLINK and b"\0" in self._data(inode):
            raise BootstrapInvalid(f"inode {nid}: a symbolic link with a zero byte")
        return inode

    def _data(self, inode: Inode) -> bytes:
        """Return the bytes of a directory or symbolic link."""
        tail = self._image[inode.tail_at : inode.end]
        whole = inode.size - len(tail)
        return self._image[inode.blocks_at : inode.blocks_at + whole] + tail

    def _directory(self, nid: int, parent: int) -> list[tuple[int, int]]:
        """Check the entries of a directory; return the directories in it."""
        below: list[tuple[int, int]] = []
        dots = {b".": nid, b"..": parent}
        for name, child, kind in self._entries(nid):
            if name in dots:
                if dots.pop(name) != child or kind != DIRECTORY:
                    raise BootstrapInvalid(f"directory {nid}: {name!r} leads elsewhere")
                continue
            known = self._inodes.get(child)
            inode = self._inode(child) if known is None else known
            if inode.kind != kind:
                raise BootstrapInvalid(f"directory {nid}: an entry's type is not its inode's")
            if kind == DIRECTORY:
                if known is not None:
                    raise BootstrapInvalid(f"directory {child} has two names")
                self._links[child] = 2
                self._links[nid] += 1
                below.append((child, nid))
            else:
                self._links[child] = self._links.get(child, 0) + 1
        if dots:
            raise BootstrapInvalid(f"directory {nid}: '.' or '..' is missing")
        return below

    def _entries(self, nid: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, nid and type of every entry, in ascending order of names."""
        content = self._data(self._inodes[nid])
        before = b""
        for start in range(0, len(content), BLOCK):
            for entry in _block_entries(nid, content[start : start + BLOCK]):
                if entry[0] <= before:
                    raise BootstrapInvalid(f"directory {nid}: names are not sorted")
                before = entry[0]
                yield entry

    def _check_disjoint(self) -> None:
        self._extents.sort()
        end = 0
        for start, stop in self._extents:
            if start < end:
                raise BootstrapInvalid("inodes or their data overlap")
            end = stop


def _block_entries(nid: int, block: bytes) -> list[tuple[bytes, int, int]]:
    """Return the entries of one directory block: heads, then names without terminators."""
    if len(block) < _DIRENT_BYTES:
        raise BootstrapInvalid(f"directory {nid}: a block of {len(block)} bytes")
    names_at = int.from_bytes(block[8:10], "little")
    if not _DIRENT_BYTES <= names_at < len(block) or names_at % _DIRENT_BYTES:
        raise BootstrapInvalid(f"directory {nid}: names begin at {names_at}")
    count = names_at // _DIRENT_BYTES
    fields = _heads(count).unpack_from(block)
    names = block[names_at:].rstrip(b"\0") if len(block) == BLOCK else block[names_at:]
    if b"\0" in names or b"/" in names:
        raise BootstrapInvalid(f"directory {nid}: names that no file can have")
    offsets = [*fields[1::4], names_at + len(names)]
    if any(fields[3::4]):
        raise BootstrapInvalid(f"directory {nid}: reserved bytes are not zero")
    entries = []
    for index, start in enumerate(offsets[:-1]):
        if not 0 < offsets[index + 1] - start <= _MAX_NAME:
            raise BootstrapInvalid(f"directory {nid}: a name lies outside its block")
        name = block[start : offsets[index + 1]]
        entries.append((name, fields[4 * index], fields[4 * index + 2]))
    return entries


@lru_cache(maxsize=512)
def _heads(count: int) -> struct.Struct:
    """Return the structure of so many entries: nid, offset, type, reserved."""
    return struct.Struct("<" + "QHBB" * count)
