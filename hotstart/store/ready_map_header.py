"""Header of a ready map: 4096 bytes, little endian, the rest zero.

0   8   magic "HSREADY\\0"        16  8   pages
8   2   version                  24  32  device id, raw SHA-256
10  6   zero                     56  16  boot id of the last use
                                 72  32  BLAKE3 of the map's bytes at the last sync, or zeros
                                 104 1   complete: 1 if every page is ready
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from hotstart.store.format_errors import FormatInvalid, check_version

MAGIC = b"HSREADY\0"
VERSION = 1
HEADER_BYTES = 4096
BOOT_OFFSET = 56
SYNCED_OFFSET = 72
COMPLETE_OFFSET = 104
MAX_PAGES = 1 << 38

_HEADER = struct.Struct("<8sH6xQ32s16s32sB")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ReadyMapInvalid(FormatInvalid):
    """A file is not the ready map of this device."""

    format_name = "ready map"


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed fields that never change while a map lives, and the boot that used it last."""

    device_id: str
    pages: int
    boot_id: bytes


def current_boot_id() -> bytes:
    """Return the kernel's random identity of this boot (random(4)), 16 bytes."""
    return uuid.UUID(_BOOT_ID.read_text().strip()).bytes


def encode_header(device_id: str, pages: int, boot_id: bytes) -> bytes:
    """Return the header of an empty map."""
    fixed = _HEADER.pack(MAGIC, VERSION, pages, bytes.fromhex(device_id), boot_id, bytes(32), 0)
    return fixed.ljust(HEADER_BYTES, b"\0")


def parse_header(
    content: bytes, *, device_id: str | None = None, pages: int | None = None
) -> Header:
    """Read a header, which must be the given device's. Raises ReadyMapInvalid for anything else.

    A newer version is FormatVersionUnknown.
    """
    if len(content) != HEADER_BYTES:
        raise ReadyMapInvalid(f"header has {len(content)} bytes, expected {HEADER_BYTES}")
    magic, version, count, device, boot, _, complete = _HEADER.unpack_from(content)
    if magic != MAGIC:
        raise ReadyMapInvalid("does not begin with the magic of a ready map")
    check_version("ready map", version, (VERSION,))
    if any(content[10:16]) or any(content[_HEADER.size :]) or complete > 1 or count > MAX_PAGES:
        raise ReadyMapInvalid("reserved fields are not as this version writes them")
    if device_id is not None and device.hex() != device_id:
        raise ReadyMapInvalid(f"is of device {device.hex()}, expected {device_id}")
    if pages is not None and count != pages:
        raise ReadyMapInvalid(f"has {count} pages, expected {pages}")
    return Header(device.hex(), count, boot)
