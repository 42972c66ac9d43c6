"""Extended attributes: which ones belong to a file, and POSIX ACLs written as text.

An attribute that speaks of the file system or policy a file lay on would be wrong elsewhere, so it
is left out: file handles of an overlay's lower layer, labels and signatures of the host that wrote
it. All others are kept as they are.

Archives carry ACLs either as the kernel's binary value or as text ("user::rwx,user:1000:r--,..").
``acl_from_text`` gives the binary value of include/uapi/linux/posix_acl_xattr.h: a version
word, then entries (tag u16, permissions u16, id u32) sorted by tag and id, little endian.
"""

from __future__ import annotations

import struct

HOST_PREFIXES = (
    b"trusted.overlay.origin",
    b"trusted.overlay.impure",
    b"trusted.overlay.uuid",
    b"trusted.overlay.nlink",
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"system.nfs4_",
    b"system.cifs",
    b"system.richacl",
    b"btrfs.",
    b"ceph.",
)

ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF
# (kind, has a name) -> tag of posix_acl_xattr.h
_TAGS = {
    ("user", False): 0x01,
    ("user", True): 0x02,
    ("group", False): 0x04,
    ("group", True): 0x08,
    ("mask", False): 0x10,
    ("other", False): 0x20,
}


def is_kept(name: bytes) -> bool:
    """Return whether the attribute belongs to the file itself."""
    return not name.startswith(HOST_PREFIXES)


def acl_from_text(text: str) -> bytes:
    """Return the kernel's value of an ACL in text. Raises ValueError with the entry it can't read.

    Names must be numbers, or be followed by the number (star writes ``user:lisa:rwx:1000``): the
    user database that gave a bare name is not at hand.
    """
    entries = [_entry(word.strip()) for word in text.replace("\n", ",").split(",") if word.strip()]
    if not entries:
        raise ValueError("empty ACL")
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in sorted(set(entries), key=_order))


def is_mode_only(acl: bytes) -> bool:
    """Return whether an ACL from text says no more than permission bits do."""
    return len(acl) <= len(_VERSION) + 3 * _ENTRY.size


def _order(entry: tuple[int, int, int]) -> tuple[int, int]:
    return entry[0], entry[2]


def _entry(word: str) -> tuple[int, int, int]:
    fields = word.split("#")[0].strip().split(":")
    kind = {"u": "user", "g": "group", "m": "mask", "o": "other"}.get(fields[0], fields[0])
    if len(fields) == 2 and kind in ("mask", "other"):
        fields.insert(1, "")
    if len(fields) not in (3, 4) or (kind, bool(fields[1])) not in _TAGS:
        raise ValueError(f"unknown ACL entry {word[:80]!r}")
    number = fields[3] if len(fields) == 4 else fields[1]
    if fields[1] and not (number.isascii() and number.isdigit() and int(number) < _NO_ID):
        raise ValueError(f"ACL entry {word[:80]!r} names a user or group without its number")
    return (
        _TAGS[kind, bool(fields[1])],
        _permissions(fields[2], word),
        int(number) if fields[1] else _NO_ID,
    )


def _permissions(text: str, word: str) -> int:
    if len(text) != 3 or any(c not in (letter, "-") for c, letter in zip(text, "rwx", strict=True)):
        raise ValueError(f"unknown permissions in ACL entry {word[:80]!r}")
    return sum(bit for c, bit in zip(text, (4, 2, 1), strict=True) if c != "-")
