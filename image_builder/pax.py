"""PAX records of one tar member, and the global ones that apply until they are replaced.

Values: ``path``, ``linkpath``, ``size``, ``uid``, ``gid``, ``mtime`` of POSIX; extended attributes
as star and GNU tar write them (SCHILY.xattr.NAME, raw), as libarchive does (LIBARCHIVE.xattr.NAME,
base64), and ACLs in text (SCHILY.acl.access, SCHILY.acl.default). An empty value cancels a global
one (pax(1)). Raises ValueError for values that can't be read.

Of global records only those of POSIX count, so that what a member costs doesn't grow with them:
attributes and sparse maps for every later member are what no program writes, and are refused.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from image_builder.attributes import ACL_ACCESS, ACL_DEFAULT, acl_from_text, is_kept, is_mode_only
from image_builder.tar_headers import parse_pax, pax_number, pax_time_ns

_ACLS = {"SCHILY.acl.access": ACL_ACCESS, "SCHILY.acl.default": ACL_DEFAULT}
_STAR = "SCHILY.xattr."
_LIBARCHIVE = "LIBARCHIVE.xattr."
_SPARSE = "GNU.sparse."
_OF_ALL_MEMBERS = frozenset(("path", "linkpath", "size", "uid", "gid", "mtime"))
_OF_ONE_MEMBER = ("SCHILY.acl.", _STAR, _LIBARCHIVE, _SPARSE)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one member in order."""

    all: list[tuple[str, bytes]]

    @classmethod
    def parse(cls, content: bytes) -> Records:
        """Read the body of a PAX header."""
        return cls(parse_pax(content))

    def __bool__(self) -> bool:
        return bool(self.all)

    def last(self, key: str) -> bytes | None:
        """Return the value that counts: the last one; None if there is none or it is empty."""
        for name, value in reversed(self.all):
            if name == key:
                return value or None
        return None

    @property
    def path(self) -> bytes | None:
        """The name of the member."""
        return self.last("path")

    @property
    def link(self) -> bytes | None:
        """The target of a link."""
        return self.last("linkpath")

    @property
    def size(self) -> int | None:
        """Stored bytes of the member."""
        return self._number("size")

    @property
    def uid(self) -> int | None:
        """Owner."""
        return self._number("uid")

    @property
    def gid(self) -> int | None:
        """Group."""
        return self._number("gid")

    @property
    def mtime_ns(self) -> int | None:
        """Modification time."""
        value = self.last("mtime")
        return None if value is None else pax_time_ns(value, "mtime")

    @property
    def is_sparse(self) -> bool:
        """True for the three PAX formats of sparse files."""
        return any(key.startswith(_SPARSE) for key, _value in self.all)

    def xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes that belong to the file, sorted by name."""
        found: dict[bytes, bytes] = {}
        for key, value in self.all:
            if key.startswith(_LIBARCHIVE):
                name = unquote_to_bytes(key.removeprefix(_LIBARCHIVE).encode(*_BYTES))
                found.setdefault(name, _base64(value))
            elif key in _ACLS and value:
                acl = acl_from_text(value.decode("utf-8", "replace"))
                # GNU tar writes the mode as an access ACL too; the kernel keeps none for it.
                if _ACLS[key] != ACL_ACCESS or not is_mode_only(acl):
                    found[_ACLS[key]] = acl
        for key, value in self.all:
            if key.startswith(_STAR):
                found[key.removeprefix(_STAR).encode(*_BYTES)] = value
        return {name: found[name] for name in sorted(found) if is_kept(name)}

    def _number(self, key: str) -> int | None:
        value = self.last(key)
        return None if value is None else pax_number(value, key)


_BYTES = ("utf-8", "surrogateescape")


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as err:
        raise ValueError("an extended attribute is not base64") from err


@dataclass(slots=True)
class GlobalRecords:
    """Records of ``g`` headers: they hold for every later member that has no own value.

    One value of each known key is kept, however many headers come.
    """

    _records: dict[str, bytes] = field(default_factory=dict)

    def add(self, records: Records) -> None:
        """Take the records of one more global header. Raises ValueError."""
        for key, value in records.all:
            if key.startswith(_OF_ONE_MEMBER):
                raise ValueError(f"a global PAX header with {key[:80]!r}, which files have alone")
            if key in _OF_ALL_MEMBERS:
                self._records[key] = value

    def under(self, own: Records) -> Records:
        """Return ``own`` with the global records behind it."""
        if not self._records:
            return own
        return Records([*self._records.items(), *own.all])
