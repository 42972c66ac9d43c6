"""One inode of a bootstrap and what lies behind it: attributes, chunk indexes, inline data.

Pure. ``InodeReader.read`` accepts only what docs/formats/bootstrap.md allows: everything lies
inside the image, chunks inside their devices, and no file is larger than images may hold.
"""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

from hotstart.store.bootstrap_head import BLOCK, BootstrapHead, BootstrapInvalid

FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED = 0, 2, 4
MAX_FILE_BYTES = 1 << 44
MAX_TARGET_BYTES = 4095

_SLOT = 32
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16s")
_XATTR_HEADER = struct.Struct("<IB7s")
_XATTR_ENTRY = struct.Struct("<BBH")
_INDEX = struct.Struct("<HHI")
_CHUNK_INDEXES, _CHUNK_BITS = 0x20, 0x1F
_HOLE = (0xFFFF, 0xFFFF, 0xFFFFFFFF)
_PREFIXES = {1: False, 2: True, 3: True, 4: False, 6: False}
"""Of attribute names; True: nothing follows the prefix."""

FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
REGULAR, DIRECTORY, SYMLINK = 1, 2, 7


class Inode(NamedTuple):
    """One inode: its directory entries' type, and where in the image it and its data lie.

    ``blocks_at`` is the first byte of its whole blocks of data; -1: data is in devices.
    """

    kind: int
    links: int
    size: int
    start: int
    end: int
    blocks_at: int
    tail_at: int
    """First byte of the inline tail; ``end`` is behind it."""


class InodeReader:
    """Reads inodes of one image. ``spend`` is told of bytes looked at, so that work is bounded."""

    def __init__(self, image: bytes, head: BootstrapHead) -> None:
        self._image = image
        self._head = head
        self._shared: set[int] = set()
        self._left = len(image)

    def spend(self, count: int) -> None:
        """Count bytes of the image that are used: nothing of it can be used twice."""
        self._left -= count
        if self._left < 0:
            raise BootstrapInvalid("inodes share what each should have alone")

    def read(self, nid: int) -> Inode:
        """Return a checked inode. Raises BootstrapInvalid."""
        at = nid * _SLOT
        if at < self._head.first_inode or at + _COMPACT.size > len(self._image):
            raise BootstrapInvalid(f"inode {nid} lies outside the image")
        if self._image[at] & 1:
            return self._read_extended(nid, at)
        form, attributes, mode, links, size, mtime, data, _, _, _, rest = _COMPACT.unpack_from(
            self._image, at
        )
        if mtime or rest:
            raise BootstrapInvalid(f"inode {nid}: reserved bytes are not zero")
        return self._finish(nid, form, attributes, mode, links, size, data, at + _COMPACT.size)

    def _read_extended(self, nid: int, at: int) -> Inode:
        if at + _EXTENDED.size > len(self._image):
            raise BootstrapInvalid(f"inode {nid} lies outside the image")
        form, attributes, mode, high, size, data, _, _, _, _, nanoseconds, links, rest = (
            _EXTENDED.unpack_from(self._image, at)
        )
        if high or nanoseconds >= 10**9 or any(rest):
            raise BootstrapInvalid(f"inode {nid}: reserved bytes are not zero")
        return self._finish(nid, form, attributes, mode, links, size, data, at + _EXTENDED.size)

    def _finish(
        self, nid: int, form: int, attributes: int, mode: int, links: int, size: int, data: int,
        end: int,
    ) -> Inode:  # fmt: skip
        kind, layout = FILE_TYPES.get(stat.S_IFMT(mode), 0), form >> 1
        if kind == 0 or mode > 0xFFFF or size > MAX_FILE_BYTES or links == 0:
            raise BootstrapInvalid(f"inode {nid}: mode {mode:#o}, {size} bytes, {links} links")
        if attributes:
            end = self._attributes(nid, end, attributes)
        start = nid * _SLOT
        if layout == FLAT_PLAIN:
            blocks = -(-size // BLOCK)
            tail = 0
        elif layout == FLAT_INLINE:
            blocks, tail = divmod(size, BLOCK)
            if tail == 0 or end // BLOCK != (end + tail - 1) // BLOCK:
                raise BootstrapInvalid(f"inode {nid}: inline data is not behind it in its block")
        elif layout == CHUNK_BASED and kind == REGULAR:
            end = self._indexes(nid, end, size, data)
            self.spend(end - start)
            return Inode(kind, links, size, start, end, -1, end)
        else:
            raise BootstrapInvalid(f"inode {nid}: layout {layout} of a file of type {kind}")
        self._check_kind(nid, kind, size)
        if blocks and data * BLOCK + blocks * BLOCK > len(self._image):
            raise BootstrapInvalid(f"inode {nid}: data lies outside the image")
        self.spend(end + tail - start)
        return Inode(kind, links, size, start, end + tail, data * BLOCK, end)

    def _check_kind(self, nid: int, kind: int, size: int) -> None:
        if kind not in (REGULAR, DIRECTORY, SYMLINK) and size:
            raise BootstrapInvalid(f"inode {nid}: a special file with {size} bytes")
        if kind == SYMLINK and not 0 < size <= MAX_TARGET_BYTES:
            raise BootstrapInvalid(f"inode {nid}: a symbolic link of {size} bytes")
        if kind == DIRECTORY and not 0 < size <= len(self._image):
            raise BootstrapInvalid(f"inode {nid}: a directory of {size} bytes")

    def _indexes(self, nid: int, end: int, size: int, data: int) -> int:
        """Check the chunk indexes of a file; return where they end."""
        bits = data & _CHUNK_BITS
        if data & ~_CHUNK_BITS != _CHUNK_INDEXES or size == 0:
            raise BootstrapInvalid(f"inode {nid}: chunk format {data:#x} of {size} bytes")
        blocks = -(-size // BLOCK)
        count = -(-blocks // (1 << bits))
        start = (end + 7) & ~7
        stop = start + count * _INDEX.size
        if stop > len(self._image):
            raise BootstrapInvalid(f"inode {nid}: {count} chunk indexes lie outside the image")
        devices = self._head.devices
        for index in _INDEX.iter_unpack(self._image[start:stop]):
            length = min(blocks, 1 << bits)
            blocks -= length
            if index == _HOLE:
                continue
            high, device, first = index
            if high or not 0 < device <= len(devices) or first + length > devices[device - 1][1]:
                raise BootstrapInvalid(f"inode {nid}: a chunk lies outside its device")
        return stop

    def _attributes(self, nid: int, at: int, count: int) -> int:
        """Check the attributes behind an inode; return where they end."""
        end = at + _XATTR_HEADER.size + 4 * (count - 1)
        if end > len(self._image):
            raise BootstrapInvalid(f"inode {nid}: attributes lie outside the image")
        name_filter, shared, rest = _XATTR_HEADER.unpack_from(self._image, at)
        own = at + _XATTR_HEADER.size + 4 * shared
        if name_filter or any(rest) or own > end:
            raise BootstrapInvalid(f"inode {nid}: the head of its attributes is out of form")
        for (number,) in struct.iter_unpack("<I", self._image[own - 4 * shared : own]):
            if number not in self._shared:
                place = self._head.xattr_block * BLOCK + 4 * number
                self._attribute(nid, place, len(self._image))
                self._shared.add(number)
        while own < end:
            own = self._attribute(nid, own, end)
        return end

    def _attribute(self, nid: int, at: int, limit: int) -> int:
        """Check one attribute; return where the next one begins."""
        if at + _XATTR_ENTRY.size > limit:
            raise BootstrapInvalid(f"inode {nid}: an attribute lies outside its place")
        length, prefix, value_length = _XATTR_ENTRY.unpack_from(self._image, at)
        end = at + _XATTR_ENTRY.size + length + value_length
        following: int = (end + 3) & ~3
        name = self._image[at + _XATTR_ENTRY.size : at + _XATTR_ENTRY.size + length]
        is_whole = _PREFIXES.get(prefix)
        if is_whole is None or is_whole != (length == 0) or b"\0" in name:
            raise BootstrapInvalid(f"inode {nid}: an attribute has no name that Linux knows")
        if following > limit or any(self._image[end:following]):
            raise BootstrapInvalid(f"inode {nid}: an attribute lies outside its place")
        return following
