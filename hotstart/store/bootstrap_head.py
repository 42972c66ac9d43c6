"""The superblock and device table at the head of a bootstrap (docs/formats/bootstrap.md). Pure.

An independent reader: nothing here is shared with the writer in image_builder.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hotstart.store.format_errors import FormatInvalid

BLOCK = 4096
MAX_DEVICES = 16
"""Far above what images have (one); the slots all lie in the first block."""
MAX_IMAGE_BYTES = 1 << 30
MAX_INODES = 8_000_000
MAX_DEVICE_BLOCKS = 1 << 32

_MAGIC = 0xE0F5E1E2
_OFFSET, _BYTES, _SLOT_BYTES = 1024, 128, 128
_COMPAT = 0x3
_CHUNKED, _DEVICE_TABLE = 0x4, 0x8
_TABLE_AT = 9
_TAG_BYTES = 64
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24s")
_SLOT = struct.Struct("<64sIIHH52s")


class BootstrapInvalid(FormatInvalid):
    """Bytes are not a bootstrap that may be mounted."""

    format_name = "bootstrap"


@dataclass(frozen=True, slots=True)
class BootstrapHead:
    """What the walk through a bootstrap needs to know. ``devices``: tag and blocks of each."""

    root_nid: int
    inodes: int
    xattr_block: int
    devices: tuple[tuple[str, int], ...]

    @property
    def first_inode(self) -> int:
        """Where inodes may begin, in bytes."""
        return _OFFSET + _BYTES + _SLOT_BYTES * len(self.devices)


def device_tags(head: bytes) -> tuple[str, ...]:
    """Return the device ids that the first block of a bootstrap names; of no bootstrap, none.

    Nothing is checked: a damaged head may name anything.
    """
    if len(head) < BLOCK:
        return ()
    count = struct.unpack_from("<H", head, _OFFSET + 86)[0]
    at = _OFFSET + _BYTES
    slots = (head[at + n * _SLOT_BYTES :][:_TAG_BYTES] for n in range(min(count, MAX_DEVICES)))
    return tuple(slot.rstrip(b"\0").decode("ascii", "replace") for slot in slots)


def parse_head(image: bytes) -> BootstrapHead:
    """Read superblock and device table. Raises BootstrapInvalid for what the writer never makes."""
    if not BLOCK <= len(image) <= MAX_IMAGE_BYTES or len(image) % BLOCK:
        raise BootstrapInvalid(f"has {len(image)} bytes, not whole blocks up to {MAX_IMAGE_BYTES}")
    if any(image[:_OFFSET]):
        raise BootstrapInvalid("bytes before the superblock are not zero")
    (magic, crc, compat, bits, slots, root, inodes, _, nanoseconds, blocks, meta, xattrs, _, volume,
     incompat, rest, devices, table_at, dir_bits, prefixes, prefix_at, packed, reserved,
     ) = _SUPER.unpack_from(image, _OFFSET)  # fmt: skip
    if magic != _MAGIC or crc != checksum(image):
        raise BootstrapInvalid("does not begin with an EROFS superblock that has its checksum")
    wanted = _CHUNKED | (_DEVICE_TABLE if devices else 0)
    if (compat, incompat, bits) != (_COMPAT, wanted, 12):
        raise BootstrapInvalid(f"features {compat:#x}/{incompat:#x} or block size are not ours")
    unused = (slots, meta, rest, dir_bits, prefixes, prefix_at, packed)
    if any(unused) or any(volume) or any(reserved) or table_at != _TABLE_AT:
        raise BootstrapInvalid("fields that are not used are not zero")
    if blocks * BLOCK != len(image):
        raise BootstrapInvalid(f"says it has {blocks} blocks, has {len(image) // BLOCK}")
    if not 0 < inodes <= MAX_INODES or nanoseconds >= 10**9 or xattrs > blocks:
        raise BootstrapInvalid("counts of the superblock are out of range")
    return BootstrapHead(root, inodes, xattrs, _devices(image, devices))


def _devices(image: bytes, count: int) -> tuple[tuple[str, int], ...]:
    if count > MAX_DEVICES:
        raise BootstrapInvalid(f"names {count} devices, at most {MAX_DEVICES} are possible")
    found = []
    for number in range(count):
        at = _OFFSET + _BYTES + number * _SLOT_BYTES
        tag, blocks, mapped, high, mapped_high, rest = _SLOT.unpack_from(image, at)
        text = tag.rstrip(b"\0").decode("ascii", "replace")
        if any(rest) or mapped or high or mapped_high or not text.isalnum():
            raise BootstrapInvalid(f"slot of device {number} is not as this version writes it")
        found.append((text, blocks))
    if len({tag for tag, _ in found}) != count:
        raise BootstrapInvalid("names a device twice")
    return tuple(found)


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc_table()


def checksum(image: bytes) -> int:
    """Return CRC-32C of the first block from the superblock on, its own field as zero."""
    crc = 0xFFFFFFFF
    for byte in image[_OFFSET : _OFFSET + 4] + bytes(4) + image[_OFFSET + 8 : BLOCK]:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
