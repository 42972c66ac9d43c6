"""Random access to the bytes of an archive: a whole file, or a part of one (a blob in a tar).

``ArchiveBytes`` does not own its descriptor: whoever opened the file closes it after the build
(sources keep an ExitStack). Reads are positioned, so that any number of threads may share one.
``ArchiveContent`` is a regular file of a tar: pieces of archive, holes in between.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from hotstart.core.span import Span, merge
from image_builder.errors import READ_AS_ROOT, SourceChanged, SourceInvalid


@dataclass(frozen=True, slots=True)
class ArchiveBytes:
    """``size`` bytes from ``offset`` of an open file; ``name`` is for messages."""

    fd: int
    offset: int
    size: int
    name: str

    def part(self, offset: int, size: int, name: str) -> ArchiveBytes:
        """Return a part of these bytes. Raises SourceInvalid if it reaches past their end."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise SourceInvalid(self.name, f"truncated: {name} ends behind the end of the archive")
        return ArchiveBytes(self.fd, self.offset + offset, size, name)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes. Raises SourceInvalid at the end of the archive."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``. Raises SourceInvalid at the end of the archive."""
        if offset + len(buffer) > self.size:
            raise SourceInvalid(
                self.name,
                f"truncated: {self.size} bytes, but {offset + len(buffer)} are needed",
                "fetch or write the archive again",
            )
        done = 0
        while done < len(buffer):
            try:
                more = os.preadv(self.fd, [buffer[done:]], self.offset + offset + done)
            except OSError as err:
                problem = f"can't be read: {err.strerror}"
                raise SourceInvalid(self.name, problem, READ_AS_ROOT) from err
            if more == 0:
                raise SourceChanged(self.name)
            done += more


def open_archive(path: str, stack: ExitStack) -> ArchiveBytes:
    """Open a file for reading until ``stack`` closes it. Raises SourceInvalid."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise SourceInvalid(path, "there is no such file") from err
    except OSError as err:
        raise SourceInvalid(path, err.strerror or "can't be opened", READ_AS_ROOT) from err
    stack.callback(os.close, fd)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
    except OSError as err:
        raise SourceInvalid(path, "not a regular file", "save the archive to a file first") from err
    return ArchiveBytes(fd, 0, size, path)


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes of a file at ``offset``, found at ``archive_offset`` of the archive."""

    offset: int
    archive_offset: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class ArchiveContent:
    """A regular file inside an archive. ``pieces`` ascend and don't overlap."""

    archive: ArchiveBytes
    size: int
    pieces: tuple[Piece, ...]

    def data_spans(self) -> Sequence[Span]:
        """Return the parts that the archive holds bytes for."""
        return merge(Span(p.offset, p.length) for p in self.pieces if p.length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; what no piece covers is zero."""
        wanted = Span(offset, len(buffer))
        position = offset
        first = max(0, bisect_right(self.pieces, offset, key=lambda p: p.offset) - 1)
        for piece in self.pieces[first:]:
            if piece.offset >= wanted.end:
                break
            common = wanted.overlap(Span(piece.offset, piece.length))
            if common is None:
                continue
            _zero(buffer[position - offset : common.offset - offset])
            self.archive.read_into(
                piece.archive_offset + common.offset - piece.offset,
                buffer[common.offset - offset : common.end - offset],
            )
            position = common.end
        _zero(buffer[position - offset :])


def _zero(buffer: memoryview) -> None:
    if len(buffer):
        buffer[:] = bytes(len(buffer))
