"""The journal of one userfaultfd: what is left of a process's memory, whoever reads it next.

A journal is a memory file (memfd) that the keeper holds together with the userfaultfd. Events are
gone from the kernel once they are read, so they are read straight into the journal: the process
goes on when read(2) returns, and by then its successor can see them. The page worker may be
killed between any two instructions; its successor takes the base pieces, applies every record
and knows what is still missing. Layout, little endian, version 1:

    0     8   magic "HSPGJRN1" (the last byte is the version)
    8     1   1 once a newer journal has taken this one's place, else 0
    16    8   number of base pieces        24  8  where the records begin (multiple of 32)
    32    8   generation: how many journals of this process came before
    4096  24  each base piece: start, end, offset in the memory file
    ...   32  each record: struct uffd_msg, or kind 1 = INSTALLED with start and end at 8 and 16,
              or kind 2 = FORK_HELD: a FORK event whose child the keeper has got

Records are append-only. A batch that holds page faults alone is wiped and its room used again:
faults come back by themselves (the successor wakes every waiting thread), so neither lost nor
stale ones do harm. An INSTALLED record's kind byte is written last. One thread owns a journal.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

from hotstart.core.errors import IntegrityError
from hotstart.kernel.userfaultfd import MESSAGE_BYTES, Message, decode
from snapshotter.page_ranges import PageRanges, Piece

RECORD = MESSAGE_BYTES
BATCH = 64 * RECORD
"""Room for one read(2)."""

INSTALLED = 1
FORK_HELD = 2

_MAGIC = b"HSPGJRN1"
_SUPERSEDED_AT, _COUNT_AT, _BASE_AT = 8, 16, 4096
_counts = struct.Struct("<QQQ")
_piece = struct.Struct("<QQQ")
_pair = struct.Struct("<QQ")
_LOG_BYTES = 1 << 20


class JournalInvalid(IntegrityError):
    """A journal cannot be used: unknown version, or another one has taken its place."""


class PageJournal:
    """One memory file, mapped. Use ``create`` or ``adopt``; owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        # Populated at once: the kernel must never have to fault journal pages in while it copies
        # an event, since a worker that is being killed could then lose it.
        self._map = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._view = memoryview(self._map)
        self._count, self._at, self.generation = _counts.unpack_from(self._map, _COUNT_AT)

    @classmethod
    def create(
        cls, ranges: PageRanges, *, generation: int = 0, log_bytes: int = _LOG_BYTES
    ) -> PageJournal:
        """Make a journal whose base is ``ranges``."""
        pieces = list(ranges)
        log_at = (_BASE_AT + len(pieces) * _piece.size + RECORD - 1) // RECORD * RECORD
        fd = os.memfd_create("hotstart-page-journal", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, log_at + max(log_bytes, 2 * BATCH))
            base = b"".join(_piece.pack(*piece) for piece in pieces)
            _write(fd, base, _BASE_AT)
            _write(fd, _counts.pack(len(pieces), log_at, generation), _COUNT_AT)
            _write(fd, _MAGIC, 0)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def adopt(cls, fd: int) -> PageJournal:
        """Take over a predecessor's journal. Raises JournalInvalid; then ``fd`` stays open."""
        magic = os.pread(fd, len(_MAGIC), 0)
        if magic != _MAGIC:
            raise JournalInvalid(f"page journal: version {magic!r}, expected {_MAGIC!r}")
        if os.pread(fd, 1, _SUPERSEDED_AT) != b"\0":
            raise JournalInvalid("page journal: a newer one has taken its place and is lost")
        return cls(fd)

    def close(self) -> None:
        """Unmap and close."""
        self._view.release()
        self._map.close()
        os.close(self.fd)

    def base(self) -> PageRanges:
        """Return the pieces that were missing when the journal began."""
        view = self._view[_BASE_AT : _BASE_AT + self._count * _piece.size]
        return PageRanges(Piece(*words) for words in _piece.iter_unpack(view))

    def replay(self) -> Iterator[tuple[int, Message]]:
        """Yield (position, record) of everything read or installed, and end where to go on."""
        end = len(self._map) - BATCH
        while self._at <= end and self._map[self._at]:
            yield self._at, decode(self._map, self._at)
            self._at += RECORD

    @property
    def full(self) -> bool:
        """True when the next batch would not fit: a new journal must take this one's place."""
        return bool(self._at > len(self._map) - 2 * BATCH)

    def room(self) -> memoryview:
        """Return where the next batch of messages is to be read into."""
        return self._view[self._at : self._at + BATCH]

    def batch(self, length: int) -> list[tuple[int, Message]]:
        """Return (position, message) of ``length`` bytes just read; see ``keep`` and ``wipe``."""
        return [(at, decode(self._map, at)) for at in range(self._at, self._at + length, RECORD)]

    def keep(self, length: int) -> None:
        """The batch holds events: keep it for the successor."""
        self._at += length

    def wipe(self, length: int) -> None:
        """The batch holds page faults alone: its room is used again."""
        self._view[self._at : self._at + length] = bytes(length)

    def installed(self, start: int, end: int) -> None:
        """Note that [start, end) is resident, before any further event is read."""
        at = self._at
        _pair.pack_into(self._map, at + 8, start, end)
        self._map[at] = INSTALLED
        self._at = at + RECORD

    def fork_held(self, position: int) -> None:
        """The keeper has the child of the FORK event at ``position``: nothing was lost."""
        self._map[position] = FORK_HELD

    def supersede(self) -> None:
        """Mark that a newer journal counts; call when the keeper holds that one."""
        self._map[_SUPERSEDED_AT] = 1


def _write(fd: int, content: bytes, offset: int) -> None:
    written = os.pwrite(fd, content, offset)
    if written != len(content):
        raise OSError(f"memfd: wrote {written} of {len(content)} bytes")
