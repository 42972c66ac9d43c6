"""Extended attributes of an EROFS image: the ones many inodes share, and each inode's own body.

Behind an inode lies a 12-byte header, the ids of shared attributes, then its own attributes. The
shared ones lie in one area of the bootstrap, at 4-byte positions that are their ids. An attribute
is shared when several inodes have it with the same value (a default ACL below a directory).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_builder.attributes import ACL_ACCESS, ACL_DEFAULT
from image_builder.erofs_format import XATTR_ENTRY, XATTR_HEADER
from image_builder.errors import NotRepresentable, show

_WHOLE = {ACL_ACCESS: 2, ACL_DEFAULT: 3}
_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_MAX_BODY = 12 + 4 * 0xFFFE
_MAX_SHARED = 255


@dataclass(frozen=True, slots=True)
class XattrBody:
    """What lies behind an inode. ``count`` is i_xattr_icount; both are 0 and empty for none."""

    content: bytes = b""
    count: int = 0


NO_BODY = XattrBody()


class XattrTable:
    """Encodes attributes; made once for all inodes, so that it knows which are shared."""

    def __init__(self, nodes: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        """Take every inode's path (for messages) and attributes. Raises NotRepresentable."""
        counts: Counter[bytes] = Counter()
        for path, xattrs in nodes:
            counts.update(_encode(path, name, value) for name, value in xattrs.items())
        self._ids: dict[bytes, int] = {}
        area = bytearray()
        for entry, count in counts.items():
            if count > 1 and len(entry) > 4:  # an id takes 4 bytes
                self._ids[entry] = len(area) // 4
                area += entry
        self.shared_area = bytes(area)

    def body(self, path: bytes, xattrs: Mapping[bytes, bytes]) -> XattrBody:
        """Return the body of one inode. Raises NotRepresentable."""
        if not xattrs:
            return NO_BODY
        shared: list[int] = []
        own = bytearray()
        for name in sorted(xattrs):
            entry = _encode(path, name, xattrs[name])
            number = self._ids.get(entry)
            if number is not None and len(shared) < _MAX_SHARED:
                shared.append(number)
            else:
                own += entry
        content = XATTR_HEADER.pack(0, len(shared))
        content += b"".join(number.to_bytes(4, "little") for number in shared) + own
        if len(content) > _MAX_BODY:
            raise NotRepresentable(path, f"{len(content)} bytes of extended attributes")
        return XattrBody(content, 1 + (len(content) - XATTR_HEADER.size) // 4)


def _encode(path: bytes, name: bytes, value: bytes) -> bytes:
    index, suffix = _split(path, name)
    if len(value) > 0xFFFF:
        raise NotRepresentable(path, f"attribute {show(name)} has {len(value)} bytes")
    entry = XATTR_ENTRY.pack(len(suffix), index, len(value)) + suffix + value
    return entry + bytes(-len(entry) % 4)


def _split(path: bytes, name: bytes) -> tuple[int, bytes]:
    """Return the number of the name's prefix and the rest of the name."""
    if name in _WHOLE:
        return _WHOLE[name], b""
    for prefix, index in _PREFIXES:
        suffix = name.removeprefix(prefix)
        if suffix != name and 0 < len(suffix) <= 255 and b"\0" not in suffix:
            return index, suffix
    raise NotRepresentable(path, f"attribute {show(name)} can't be kept in an image")
