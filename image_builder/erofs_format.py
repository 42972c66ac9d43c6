"""EROFS on disk: constants and structures of Linux's erofs_fs.h, little endian. Pure packing.

Only what Linux 5.16 and later read without further features: extended and compact inodes, flat
and inline data, chunk-based files with block indexes, a device table (docs/formats/bootstrap.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from hotstart.core.span import PAGE

BLOCK = PAGE
SUPER_OFFSET = 1024
SUPER_BYTES = 128
DEVICE_SLOT_BYTES = 128
SLOT = 32
"""Inodes lie on multiples of this; a nid is a position in these units."""
MAX_NAME = 255

MAGIC = 0xE0F5E1E2
COMPAT_CHECKSUM = 0x1
COMPAT_MTIME = 0x2
INCOMPAT_CHUNKED_FILE = 0x4
INCOMPAT_DEVICE_TABLE = 0x8

FLAT_PLAIN = 0
FLAT_INLINE = 2
CHUNK_BASED = 4

CHUNK_INDEXES = 0x20
MAX_CHUNK_BITS = 31
"""Largest log2(chunk size / block size) that the format's five bits hold."""
HOLE = b"\xff" * 8

COMPACT_BYTES = 32
EXTENDED_BYTES = 64

XATTR_HEADER = struct.Struct("<IB7x")
XATTR_ENTRY = struct.Struct("<BBH")
DIRENT = struct.Struct("<QHBx")
CHUNK_INDEX = struct.Struct("<HHI")

_SUPER = struct.Struct("<IIIBBHQQIIII16s16xIHHHBBIQ24x")
_DEVICE = struct.Struct("<64sIIHH52x")
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
_U64 = (1 << 64) - 1


class Inode(NamedTuple):
    """What both inode formats hold. ``data`` is i_u: first block, device number or chunk format.

    The compact format takes sizes below 4 GiB, links, owners and groups below 65536, and has the
    time of the superblock.
    """

    layout: int
    xattr_count: int
    mode: int
    links: int
    size: int
    data: int
    number: int
    uid: int
    gid: int
    mtime_ns: int

    def pack_compact(self) -> bytes:
        """Return 32 bytes. The time is the superblock's (newer kernels read a delta of 0)."""
        fixed = (self.layout << 1, self.xattr_count, self.mode, self.links, self.size, 0)
        return _COMPACT.pack(*fixed, self.data, self.number, self.uid, self.gid, 0)

    def pack_extended(self) -> bytes:
        """Return 64 bytes."""
        seconds, nanoseconds = divmod(self.mtime_ns, 10**9)
        fixed = (self.layout << 1 | 1, self.xattr_count, self.mode, 0, self.size, self.data)
        owner = (self.number, self.uid, self.gid)
        return _EXTENDED.pack(*fixed, *owner, seconds & _U64, nanoseconds, self.links)


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields that differ between our images."""

    root_nid: int
    inodes: int
    epoch_ns: int
    blocks: int
    xattr_block: int
    devices: int
    uuid: bytes = bytes(16)
    checksum: int = 0

    def pack(self) -> bytes:
        """Return the 128 bytes at SUPER_OFFSET. Inodes count from block 0 (meta_blkaddr 0)."""
        seconds, nanoseconds = divmod(self.epoch_ns, 10**9)
        incompat = INCOMPAT_CHUNKED_FILE | (INCOMPAT_DEVICE_TABLE if self.devices else 0)
        first_slot = (SUPER_OFFSET + SUPER_BYTES) // DEVICE_SLOT_BYTES
        head = (MAGIC, self.checksum, COMPAT_CHECKSUM | COMPAT_MTIME, BLOCK.bit_length() - 1, 0)
        counts = (self.root_nid, self.inodes, seconds & _U64, nanoseconds, self.blocks)
        areas = (0, self.xattr_block, self.uuid, incompat, 0, self.devices, first_slot)
        return _SUPER.pack(*head, *counts, *areas, 0, 0, 0, 0)


def pack_device_slot(tag: str, blocks: int) -> bytes:
    """Return one slot of the device table; ``tag`` has at most 64 ASCII characters."""
    return _DEVICE.pack(tag.encode("ascii"), blocks, 0, 0, 0)


def pack_rdev(major: int, minor: int) -> int:
    """Return a device number as new_encode_dev() of include/linux/kdev_t.h writes it."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _crc_table() -> tuple[int, ...]:
    table = []
    for start in range(256):
        value = start
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc_table()


def checksum(block: bytes | bytearray) -> int:
    """Return the superblock's checksum: CRC-32C, not inverted at the end, checksum field zero."""
    crc = 0xFFFFFFFF
    for byte in bytes(block[SUPER_OFFSET:BLOCK]):
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
