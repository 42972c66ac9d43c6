"""Members of a tar archive, in archive order, with every way names and holes are written.

A member is one header with its extensions (GNU long names, PAX records, sparse maps) resolved;
its data stays in the archive and is known by position. Nothing is skipped in silence: an unknown
type, an extension without its member, or an archive that ends too early is an error.

Names come out as they are written. Whether they may be used is the caller's to check
(``safe_path``): no absolute paths, no ``..``, no NUL, no component above 255 bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from image_builder.archive_file import ArchiveBytes, ArchiveContent, Piece
from image_builder.errors import LimitExceeded, SourceInvalid, show
from image_builder.limits import Limits
from image_builder.pax import GlobalRecords, Records
from image_builder.tar_headers import BLOCK, ZERO_BLOCK, Header, parse_header
from image_builder.tar_sparse import gnu_old_map, pax_sparse
from image_builder.tree import NO_XATTRS

_TYPES = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"1": 0,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """One entry. ``mode`` is as in stat(2); a hard link has type bits 0 and its target in ``link``.

    ``mtime_ns`` is Unix time; ``content`` is set for regular files only.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int]
    xattrs: Mapping[bytes, bytes]
    content: ArchiveContent | None

    @property
    def is_hard_link(self) -> bool:
        """True if the entry is another name of ``link``."""
        return stat.S_IFMT(self.mode) == 0


def safe_path(name: bytes, archive: str, limits: Limits) -> bytes:
    """Return ``name`` relative to the root, ``b""`` for the root itself. Raises SourceInvalid."""
    if name.startswith(b"/"):
        raise SourceInvalid(archive, f"entry with an absolute path: {show(name)}", HOSTILE_HINT)
    if b"\0" in name:
        raise SourceInvalid(archive, f"entry with a NUL in its name: {show(name)}", HOSTILE_HINT)
    if len(name) > limits.path_length:
        raise LimitExceeded(archive, f"the length of a name ({len(name)})", limits.path_length)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise SourceInvalid(archive, f"entry with '..' in its path: {show(name)}", HOSTILE_HINT)
    if any(len(part) > 255 for part in parts):
        raise SourceInvalid(archive, f"entry with a name above 255 bytes: {show(name)}")
    return b"/".join(parts)


HOSTILE_HINT = "nothing was written; such an archive may be hostile, check where it came from"


def read_members(
    archive: ArchiveBytes, limits: Limits, *, end_required: bool
) -> Iterator[TarMember]:
    """Yield every member. Raises SourceInvalid (with the position) and LimitExceeded.

    ``end_required`` refuses an archive that stops without the zero block that ends one: needed
    where no digest says that the archive is whole.
    """
    return _Reader(archive, limits, end_required).members()


class _Reader:
    """A position in one archive and the extensions that wait for their member."""

    def __init__(self, archive: ArchiveBytes, limits: Limits, end_required: bool) -> None:
        self._archive = archive
        self._limits = limits
        self._end_required = end_required
        self._position = 0
        self._global = GlobalRecords()
        self._records = Records([])
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None

    def members(self) -> Iterator[TarMember]:
        """Yield members until the end of the archive."""
        count = 0
        while (header := self._next_header()) is not None:
            try:
                member = self._take(header)
            except ValueError as err:
                raise self._invalid(str(err)) from err
            if member is not None:
                count += 1
                if count > self._limits.entries:
                    raise LimitExceeded(
                        self._archive.name, "the number of entries", self._limits.entries
                    )
                yield member

    def _next_header(self) -> Header | None:
        if self._position == self._archive.size:
            if self._end_required or self._position == 0 or self._pending():
                raise self._invalid("truncated: the archive has no end mark")
            return None
        block = self._archive.read(self._position, BLOCK)
        if block == ZERO_BLOCK:
            if self._pending():
                raise self._invalid("the archive ends after an extended header")
            return None
        try:
            header = parse_header(block)
        except ValueError as err:
            what = "not a tar archive" if self._position == 0 else "damaged tar archive"
            raise self._invalid(f"{what}: {err}") from err
        self._position += BLOCK
        return header

    def _pending(self) -> bool:
        names = (self._long_name, self._long_link)
        return bool(self._records) or any(name is not None for name in names)

    def _take(self, header: Header) -> TarMember | None:
        """Handle one header; return a member if it completes one."""
        if header.kind in (b"x", b"X"):
            self._records = Records.parse(self._extension(header))
        elif header.kind == b"g":
            self._global.add(Records.parse(self._extension(header)))
        elif header.kind == b"L":
            self._long_name = self._extension(header).split(b"\0", 1)[0]
        elif header.kind == b"K":
            self._long_link = self._extension(header).split(b"\0", 1)[0]
        elif header.kind == b"V":  # volume label of GNU tar: names the archive, not a file
            self._skip(header.size)
        elif header.kind not in _TYPES:
            raise ValueError(f"entry {show(header.name)} has the unknown type {header.kind!r}")
        else:
            return self._member(header)
        return None

    def _extension(self, header: Header) -> bytes:
        if header.size > self._limits.header_size:
            raise LimitExceeded(
                self._archive.name,
                f"an extended header of {header.size} bytes",
                self._limits.header_size,
            )
        content = self._archive.read(self._position, header.size)
        self._skip(header.size)
        return content

    def _skip(self, size: int) -> None:
        self._position += (size + BLOCK - 1) // BLOCK * BLOCK

    def _member(self, header: Header) -> TarMember:
        records = self._global.under(self._records)
        long_name, long_link = self._long_name, self._long_link
        self._records, self._long_name, self._long_link = Records([]), None, None
        name = records.path if records.path is not None else long_name
        link = records.link if records.link is not None else long_link
        name = header.name if name is None else name
        kind = _TYPES[header.kind]
        if kind == stat.S_IFREG and header.kind == b"\0" and name.endswith(b"/"):
            kind = stat.S_IFDIR  # how tar wrote directories before POSIX
        content = None
        if kind == stat.S_IFREG:
            content, name = self._content(header, records, name)
        elif kind in (0, stat.S_IFDIR):  # some writers repeat a size here; no data follows a link
            self._skip(header.size if kind == stat.S_IFDIR else 0)
        return TarMember(
            name=name,
            mode=kind | (header.mode & 0o7777),
            uid=_user_id(records.uid, header.uid, "uid"),
            gid=_user_id(records.gid, header.gid, "gid"),
            mtime_ns=header.mtime * 10**9 if records.mtime_ns is None else records.mtime_ns,
            link=header.link if link is None else link,
            device=header.device,
            xattrs=records.xattrs() or NO_XATTRS,
            content=content,
        )

    def _content(
        self, header: Header, records: Records, name: bytes
    ) -> tuple[ArchiveContent, bytes]:
        """Return the file's content and its real name, and move behind its data."""
        stored = header.size if records.size is None else records.size
        start = self._position
        sparse = None
        if header.kind == b"S":
            sparse, maps = gnu_old_map(self._archive, self._position - BLOCK)
            start += maps * BLOCK
        elif records.is_sparse:
            sparse, name, used = pax_sparse(records, self._archive, start, stored, name)
            start, stored = start + used, stored - used
        where = f"the data of {show(name)}"
        self._archive.part(start, stored, where)
        self._position = start
        self._skip(stored)
        size = stored if sparse is None else sparse.size
        pieces: tuple[Piece, ...] = ()
        if sparse is not None:
            pieces = sparse.pieces(start, stored)
        elif stored:
            pieces = (Piece(0, start, stored),)
        if size > self._limits.file_size:
            raise LimitExceeded(
                self._archive.name,
                f"the size of {show(name)} ({size} bytes)",
                self._limits.file_size,
            )
        return ArchiveContent(self._archive, size, pieces), name

    def _invalid(self, problem: str) -> SourceInvalid:
        where = f"{problem} (at byte {self._position})"
        return SourceInvalid(self._archive.name, where, "fetch or write the archive again")


def _user_id(override: int | None, value: int, name: str) -> int:
    number = value if override is None else override
    if not 0 <= number < 0xFFFFFFFF:
        raise ValueError(f"{name} {number} is not a user or group number")
    return number
