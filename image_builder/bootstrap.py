"""Writes the bootstrap: the EROFS image of a tree's metadata, file data left to a device.

    block 0     superblock at 1024, device table, first inodes (the root first: its nid has 16 bits)
    inodes      each followed by its attributes, then its inline data or chunk indexes
    attributes  the shared ones, from a block boundary
    blocks      directories and symbolic links that don't fit behind their inode

The bytes depend on the tree and the placements alone: order is by directory and name, the time
in the superblock is the most frequent mtime, the UUID a digest of the rest. Small files are read
while writing, and may raise what their content raises. One thread; the image is held in memory.
"""

from __future__ import annotations

import hashlib
import stat
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hotstart.core.span import align_up
from hotstart.store.bootstrap_head import MAX_IMAGE_BYTES, MAX_INODES
from hotstart.store.bootstrap_inode import MAX_FILE_BYTES, MAX_TARGET_BYTES
from image_builder.erofs_directory import (
    FILE_TYPES,
    directory_size,
    encode_directory,
    split_names,
)
from image_builder.erofs_format import (
    BLOCK,
    CHUNK_BASED,
    CHUNK_INDEX,
    CHUNK_INDEXES,
    COMPACT_BYTES,
    DEVICE_SLOT_BYTES,
    EXTENDED_BYTES,
    FLAT_INLINE,
    FLAT_PLAIN,
    HOLE,
    MAX_NAME,
    SLOT,
    SUPER_BYTES,
    SUPER_OFFSET,
    Inode,
    Superblock,
    checksum,
    pack_device_slot,
    pack_rdev,
)
from image_builder.erofs_xattrs import NO_BODY, XattrBody, XattrTable
from image_builder.errors import NotRepresentable, TreeTooLarge
from image_builder.placement import FilePlacement
from image_builder.tree import Node, Tree

_MAX_SECONDS = 1 << 63


@dataclass(frozen=True, slots=True)
class BootstrapDevice:
    """One slot of the device table: at most 64 characters that name it, and its size in blocks."""

    tag: str
    blocks: int


@dataclass(slots=True, eq=False)
class _Item:
    """One inode being laid out; positions in bytes from the start of the image."""

    path: bytes
    node: Node
    number: int
    parent: _Item | None
    links: int = 1
    body: XattrBody = NO_BODY
    compact: bool = False
    layout: int = FLAT_PLAIN
    position: int = 0
    blocks_at: int = 0
    size: int = 0
    names: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    placement: FilePlacement | None = None

    @property
    def nid(self) -> int:
        return self.position // SLOT

    @property
    def head_size(self) -> int:
        """Bytes of inode and attributes."""
        return (COMPACT_BYTES if self.compact else EXTENDED_BYTES) + len(self.body.content)

    @property
    def tail_size(self) -> int:
        """Bytes of data behind the attributes, in the inline layout."""
        return self.size % BLOCK if self.layout == FLAT_INLINE else 0

    @property
    def whole_blocks(self) -> int:
        """Blocks of data elsewhere in the image."""
        if self.placement is not None:
            return 0
        return self.size // BLOCK if self.layout == FLAT_INLINE else align_up(self.size) // BLOCK


def write_bootstrap(
    tree: Tree,
    placements: Mapping[int, FilePlacement],
    devices: Sequence[BootstrapDevice],
) -> bytearray:
    """Return the image of ``tree``; see BootstrapDraft."""
    return BootstrapDraft(tree, placements, device_count=len(devices)).finish(devices)


class BootstrapDraft:
    """The image of a tree, but for its devices and where in them data lies.

    ``placements`` are by ``id(node)``; a regular file without one is stored inline, so it must be
    small. All placements are in the first device, and need their offsets by finish(): a draft can
    be made while data is on its way. Making one raises NotRepresentable for all that a mount would
    refuse (hotstart/store/bootstrap_check.py): an image that is published can be mounted.
    """

    def __init__(
        self, tree: Tree, placements: Mapping[int, FilePlacement], *, device_count: int
    ) -> None:
        self._placements = placements
        self._device_count = device_count
        self._by_node: dict[int, _Item] = {}
        self._items = self._collect(tree.root)
        times = Counter(item.node.mtime_ns for item in self._items)
        self._epoch_ns = min(times, key=lambda t: (-times[t], t))
        self._xattrs = XattrTable(
            (item.path, item.node.xattrs) for item in self._items if item.node.xattrs
        )
        self._shape()
        self._xattr_block, size = self._lay_out()
        self._image = bytearray(size)
        self._indexed: list[tuple[int, FilePlacement]] = []
        for item in self._items:
            self._pack(self._image, item)
        shared = self._xattrs.shared_area
        start = self._xattr_block * BLOCK
        self._image[start : start + len(shared)] = shared

    def finish(self, devices: Sequence[BootstrapDevice]) -> bytearray:
        """Return the whole image, once all placements have their offsets; may be called once."""
        if len(devices) != self._device_count:
            raise ValueError(f"{len(devices)} devices, the draft has {self._device_count}")
        for number, device in enumerate(devices):
            at = SUPER_OFFSET + SUPER_BYTES + number * DEVICE_SLOT_BYTES
            self._image[at : at + DEVICE_SLOT_BYTES] = pack_device_slot(device.tag, device.blocks)
        for start, placement in self._indexed:
            indexes = b"".join(map(_pack_index, placement.indexes()))
            self._image[start : start + len(indexes)] = indexes
        self._seal(self._image)
        return self._image

    def _collect(self, root: Node) -> list[_Item]:
        """Return every inode once, directory by directory, and count links."""
        first = _Item(b"", root, 1, None, links=2)
        items = [first]
        pending = deque([first])
        while pending:
            directory = pending.popleft()
            prefix = directory.path + b"/" if directory.path else b""
            for name in sorted(directory.node.children):
                child = directory.node.children[name]
                _check_name(prefix, name)
                known = self._by_node.get(id(child))
                if known is not None:
                    known.links += 1
                    continue
                item = _Item(prefix + name, child, len(items) + 1, directory)
                self._by_node[id(child)] = item
                items.append(item)
                if child.is_directory:
                    item.links = 2
                    directory.links += 1
                    pending.append(item)
        self._by_node[id(root)] = first
        return items

    def _shape(self) -> None:
        """Decide for each inode its form and where its data goes."""
        for item in self._items:
            node = item.node
            _check_node(item.path, node)
            item.body = self._xattrs.body(item.path, node.xattrs)
            item.placement = self._placements.get(id(node))
            if node.is_directory:
                item.names = sorted([*node.children, b".", b".."])
                item.counts = split_names(item.names)
                item.size = directory_size(item.names, item.counts)
            else:
                item.size = node.size
            item.compact = (
                node.mtime_ns == self._epoch_ns
                and item.size < 1 << 32
                and max(item.links, node.uid, node.gid) < 1 << 16
            )
            if item.placement is not None:
                item.layout = CHUNK_BASED
            elif item.size % BLOCK and item.head_size + item.size % BLOCK <= BLOCK:
                item.layout = FLAT_INLINE
            if stat.S_ISLNK(node.mode) and item.size > BLOCK - item.head_size:
                item.layout = FLAT_PLAIN  # the kernel wants inode and target in one block

    def _lay_out(self) -> tuple[int, int]:
        """Give every inode its position; return the block of shared attributes and the size."""
        position = SUPER_OFFSET + SUPER_BYTES + self._device_count * DEVICE_SLOT_BYTES
        for item in self._items:
            position = align_up(position, SLOT)
            whole = item.head_size + item.tail_size
            if position // BLOCK != (position + whole - 1) // BLOCK and whole <= BLOCK:
                position = align_up(position, BLOCK)
            item.position = position
            position += whole
            if item.placement is not None:
                position = align_up(position, 8) + 8 * item.placement.chunk_count
        xattr_block = align_up(position, BLOCK) // BLOCK
        position = align_up(xattr_block * BLOCK + len(self._xattrs.shared_area), BLOCK)
        for item in self._items:
            item.blocks_at = position
            position += item.whole_blocks * BLOCK
        if position > MAX_IMAGE_BYTES or len(self._items) > MAX_INODES:
            raise TreeTooLarge(len(self._items), position)
        return xattr_block, position

    def _inode(self, item: _Item) -> Inode:
        node = item.node
        data = item.blocks_at // BLOCK if item.whole_blocks else 0
        if item.placement is not None:
            data = CHUNK_INDEXES | item.placement.chunk_bits
        elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            data = pack_rdev(*node.device)
        return Inode(
            layout=item.layout,
            xattr_count=item.body.count,
            mode=node.mode,
            links=item.links,
            size=item.size,
            data=data,
            number=item.number,
            uid=node.uid,
            gid=node.gid,
            mtime_ns=node.mtime_ns,
        )

    def _pack(self, image: bytearray, item: _Item) -> None:
        inode = self._inode(item)
        head = inode.pack_compact() if item.compact else inode.pack_extended()
        head += item.body.content
        end = item.position + len(head)
        image[item.position : end] = head
        if item.placement is not None:
            self._indexed.append((align_up(end, 8), item.placement))
        elif item.node.content is not None:
            if item.size:
                with memoryview(image) as view:
                    item.node.content.read_into(0, view[end : end + item.size])
        else:
            content = self._data(item)
            blocks = item.whole_blocks * BLOCK
            if item.layout != FLAT_INLINE:
                blocks = len(content)
            image[item.blocks_at : item.blocks_at + blocks] = content[:blocks]
            image[end : end + len(content) - blocks] = content[blocks:]

    def _data(self, item: _Item) -> bytes:
        """Return the data of a directory or symbolic link."""
        if not item.node.is_directory:
            return item.node.target
        children = item.node.children
        dots = {b".": item, b"..": item.parent or item}
        entries = []
        for name in item.names:
            child = dots.get(name) or self._by_node[id(children[name])]
            entries.append((name, child.nid, FILE_TYPES[child.node.kind]))
        return encode_directory(entries, item.counts)

    def _seal(self, image: bytearray) -> None:
        """Write the superblock: UUID of all other bytes, then the checksum of block 0."""

        def put(uuid: bytes, crc: int) -> None:
            image[SUPER_OFFSET : SUPER_OFFSET + SUPER_BYTES] = Superblock(
                root_nid=self._items[0].nid,
                inodes=len(self._items),
                epoch_ns=self._epoch_ns,
                blocks=len(image) // BLOCK,
                xattr_block=self._xattr_block,
                devices=self._device_count,
                uuid=uuid,
                checksum=crc,
            ).pack()

        put(bytes(16), 0)
        uuid = hashlib.sha256(image).digest()[:16]
        put(uuid, 0)
        put(uuid, checksum(image))


def _check_node(path: bytes, node: Node) -> None:
    if not -_MAX_SECONDS <= node.mtime_ns // 10**9 < _MAX_SECONDS:
        raise NotRepresentable(path, "a time beyond 64 bits of seconds")
    if stat.S_ISLNK(node.mode):
        if not 0 < len(node.target) <= MAX_TARGET_BYTES:
            size = len(node.target)
            raise NotRepresentable(path, f"a symbolic link to a path of {size} bytes")
        if b"\0" in node.target:
            raise NotRepresentable(path, "a symbolic link to a path with a NUL in it")
    elif node.content is not None and node.content.size > MAX_FILE_BYTES:
        raise NotRepresentable(path, f"a file of {node.content.size} bytes, above 16 TiB")


def _check_name(prefix: bytes, name: bytes) -> None:
    is_whole = 0 < len(name) <= MAX_NAME and b"/" not in name and b"\0" not in name
    if not is_whole or name in (b".", b".."):
        raise NotRepresentable(prefix + name, f"a name of {len(name)} bytes that no file can have")


def _pack_index(position: int | None) -> bytes:
    if position is None:
        return HOLE
    return CHUNK_INDEX.pack(0, 1, position // BLOCK)


def fits_inline(node: Node) -> bool:
    """Return whether a small regular file can lie behind its inode, in one block."""
    names = sum(len(name) + len(value) + 8 for name, value in node.xattrs.items())
    return EXTENDED_BYTES + 12 + names + node.size <= BLOCK
