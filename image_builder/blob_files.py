"""The files of an image archive by name: a directory, or the members of a tar without unpacking it.

An archive that is compressed as a whole (``docker save | gzip``) is unpacked once into the spool.
Every document and layer is verified against the digest that names it before it is used.
"""

from __future__ import annotations

import json
import os
import posixpath
import stat
from collections.abc import Mapping
from typing import Protocol

from hotstart.core.digest import Digest
from image_builder.archive_file import ArchiveBytes, ArchiveContent, open_archive
from image_builder.errors import LimitExceeded, SourceInvalid, show
from image_builder.layer_spool import LayerBlob, Spool, compression_of
from image_builder.tar_reader import TarMember, read_members, safe_path

Json = Mapping[str, object]


class BlobFiles(Protocol):
    """Files by relative path, ``/`` between components."""

    @property
    def name(self) -> str:
        """Where the files are, for messages."""
        ...

    def open(self, path: str) -> ArchiveBytes:
        """Return the bytes of a file, open as long as the build. Raises SourceInvalid."""
        ...

    def has(self, path: str) -> bool:
        """Tell whether there is such a file."""
        ...


class DirectoryFiles:
    """Files below a directory."""

    def __init__(self, directory: str, spool: Spool) -> None:
        self.name = directory
        self._spool = spool

    def open(self, path: str) -> ArchiveBytes:
        """Open the file until the build ends."""
        return open_archive(os.path.join(self.name, path), self._spool.stack)

    def has(self, path: str) -> bool:
        """Tell whether there is such a file."""
        return os.path.isfile(os.path.join(self.name, path))


class TarFiles:
    """Regular files inside a tar; symbolic links in it are followed within it."""

    def __init__(self, archive: str, spool: Spool) -> None:
        """Index the archive. Raises SourceInvalid, LimitExceeded, StagingFull."""
        self.name = archive
        self._limits = spool.limits
        stored = open_archive(archive, spool.stack)
        if compression_of(stored) is not None:
            stored = spool.open(LayerBlob(stored, None, None))
        self._archive = stored
        self._members: dict[str, TarMember] = {}
        for member in read_members(stored, spool.limits, end_required=True):
            path = safe_path(member.name, archive, spool.limits)
            self._members[os.fsdecode(path)] = member

    def has(self, path: str) -> bool:
        """Tell whether the archive has such a file."""
        return self._find(path) is not None

    def open(self, path: str) -> ArchiveBytes:
        """Return the bytes where they lie in the archive."""
        content = self._find(path)
        if content is None:
            raise SourceInvalid(self.name, f"the archive has no file {show(os.fsencode(path))}")
        if not content.pieces:
            return self._archive.part(0, 0, f"{self.name}:{path}")
        piece = content.pieces[0]
        if piece.length != content.size:
            raise SourceInvalid(self.name, f"{path} is stored as a sparse file")
        return self._archive.part(piece.archive_offset, piece.length, f"{self.name}:{path}")

    def _find(self, path: str) -> ArchiveContent | None:
        for _hop in range(8):
            member = self._members.get(path)
            if member is None:
                return None
            if member.is_hard_link:
                path = posixpath.normpath(os.fsdecode(member.link))
            elif stat.S_ISLNK(member.mode):
                link = os.fsdecode(member.link)
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            else:
                return member.content
        return None


def read_document(files: BlobFiles, path: str, spool: Spool, digest: Digest | None = None) -> Json:
    """Return a JSON object, verified. Raises SourceInvalid, DigestMismatch, LimitExceeded."""
    value = _parse(files, path, spool, digest)
    if not isinstance(value, dict):
        raise SourceInvalid(files.name, f"{path} is not a JSON object")
    return value


def read_list(files: BlobFiles, path: str, spool: Spool) -> list[object]:
    """Return a JSON list. Raises SourceInvalid, LimitExceeded."""
    value = _parse(files, path, spool, None)
    if not isinstance(value, list):
        raise SourceInvalid(files.name, f"{path} is not a JSON list")
    return value


def _parse(files: BlobFiles, path: str, spool: Spool, digest: Digest | None) -> object:
    stored = files.open(path)
    if stored.size > spool.limits.document_size:
        raise LimitExceeded(files.name, f"the size of {path}", spool.limits.document_size)
    content = stored.read(0, stored.size)
    if digest is not None:
        digest.check(content, f"{files.name}:{path}")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as err:
        raise SourceInvalid(files.name, f"{path} is not JSON: {str(err)[:100]}") from err
