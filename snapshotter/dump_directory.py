"""What ``runc checkpoint`` left behind: memory maps, memory files, descriptors.

Reads CRIU's images of one dump directory; never writes there. ``pagemap-<pid>.img`` lists a
process's memory: runs of pages in ``pages-<id>.img``, laid end to end. Pages flagged LAZY are left
to the page worker by ``restore --lazy-pages``, the others CRIU reads itself.

Image layout (CRIU images/ and criu/protobuf.c): two magic words, then for each entry a 32-bit
length and a protocol buffer. The first entry of a pagemap is its head, with the number of the
pages file.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import IntegrityError
from hotstart.core.span import PAGE
from snapshotter.page_ranges import Piece

_MAGIC = struct.pack("<II", 0x54564319, 0x56084025)
_LAZY, _PRESENT = 2, 4
_PAGEMAP = re.compile(r"pagemap-(\d+)\.img")

_HEAD_PAGES_ID = 1
_DUMP_FROZEN_US = 2
_ENTRY_ADDRESS, _ENTRY_PAGES_OLD, _ENTRY_FLAGS, _ENTRY_PAGES = 1, 2, 4, 5


class DumpInvalid(IntegrityError):
    """A file of a dump directory is not what CRIU writes."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(f"{path}: {what}; the snapshot is damaged or of an unknown CRIU")
        self.path = str(path)


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """``pages`` pages at ``address``, in the memory file from byte ``offset`` on."""

    address: int
    pages: int
    offset: int
    lazy: bool


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The memory of one process: the name of its file in the directory, and what lies where.

    ``pid`` is the number inside the container's own process namespace.
    """

    pid: int
    file_name: str
    runs: tuple[MemoryRun, ...]

    def pieces(self) -> list[Piece]:
        """Return the runs that the page worker has to serve."""
        return [
            Piece(run.address, run.address + run.pages * PAGE, run.offset)
            for run in self.runs
            if run.lazy
        ]

    @property
    def size_bytes(self) -> int:
        """Bytes in the memory file."""
        return sum(run.pages for run in self.runs) * PAGE


class DumpDirectory:
    """A complete dump; ``path`` may lie on a mounted snapshot."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def processes(self) -> tuple[ProcessMemory, ...]:
        """Return the memory of every process, by pid. Raises DumpInvalid."""
        found = []
        for entry in self.path.iterdir():
            match = _PAGEMAP.fullmatch(entry.name)
            if match:
                pages_id, runs = parse_pagemap(entry.read_bytes(), entry)
                found.append(ProcessMemory(int(match[1]), f"pages-{pages_id}.img", runs))
        return tuple(sorted(found, key=lambda process: process.pid))

    def process(self, pid: int) -> ProcessMemory:
        """Return the memory of one process. Raises DumpInvalid if the dump doesn't have it."""
        path = self.path / f"pagemap-{pid}.img"
        try:
            content = path.read_bytes()
        except FileNotFoundError as err:
            raise DumpInvalid(path, f"process {pid} has no memory map") from err
        pages_id, runs = parse_pagemap(content, path)
        return ProcessMemory(pid, f"pages-{pages_id}.img", runs)

    def memory_files(self) -> tuple[str, ...]:
        """Return the names of all pages files, sorted."""
        return tuple(sorted(path.name for path in self.path.glob("pages-*.img")))

    def descriptors(self) -> tuple[str, ...]:
        """Return what stdin, stdout and stderr were (``pipe:[123]``), as runc noted it."""
        path = self.path / "descriptors.json"
        try:
            names = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError) as err:
            raise DumpInvalid(path, "no readable list of standard streams") from err
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DumpInvalid(path, "not a list of names")
        return tuple(names)

    def size_bytes(self) -> int:
        """Bytes in all files."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())


def frozen_ms(work_dir: Path) -> float | None:
    """Return how long the processes stood still, as CRIU noted it (stats-dump); None: it didn't."""
    try:
        content = (work_dir / "stats-dump").read_bytes()
        entry = next(_entries(content, work_dir))
        # StatsEntry{dump = 1}: a tag, a length, and DumpStatsEntry with times in microseconds.
        _, at = _varint(entry, 0)
        length, at = _varint(entry, at)
        return _fields(entry[at : at + length])[_DUMP_FROZEN_US] / 1e3
    except (OSError, DumpInvalid, IndexError, KeyError, StopIteration):
        return None


def parse_pagemap(content: bytes, source: Path | str) -> tuple[int, tuple[MemoryRun, ...]]:
    """Return the number of the pages file and the runs in it. Raises DumpInvalid."""
    if content[:8] != _MAGIC:
        raise DumpInvalid(source, "not a page map")
    entries = _entries(content, source)
    try:
        pages_id = _fields(next(entries)).get(_HEAD_PAGES_ID, 0)
        runs: list[MemoryRun] = []
        offset = 0
        for entry in entries:
            fields = _fields(entry)
            flags = fields.get(_ENTRY_FLAGS, 0)
            if not flags & _PRESENT:
                continue
            pages = fields.get(_ENTRY_PAGES) or fields[_ENTRY_PAGES_OLD]
            runs.append(MemoryRun(fields[_ENTRY_ADDRESS], pages, offset, bool(flags & _LAZY)))
            offset += pages * PAGE
    except (IndexError, KeyError, StopIteration) as err:
        raise DumpInvalid(source, "a page map entry is cut off") from err
    return pages_id, tuple(runs)


def _entries(content: bytes, source: Path | str) -> Iterator[bytes]:
    at = len(_MAGIC)
    while at < len(content):
        if at + 4 > len(content):
            raise DumpInvalid(source, "a page map entry is cut off")
        length = int.from_bytes(content[at : at + 4], "little")
        at += 4 + length
        if at > len(content):
            raise DumpInvalid(source, "a page map entry is cut off")
        yield content[at - length : at]


def _fields(entry: bytes) -> dict[int, int]:
    """Decode a protocol buffer of whole numbers only. IndexError when it is cut off."""
    fields: dict[int, int] = {}
    at = 0
    while at < len(entry):
        key, at = _varint(entry, at)
        value, at = _varint(entry, at)
        fields[key >> 3] = value
    return fields


def _varint(entry: bytes, at: int) -> tuple[int, int]:
    byte = entry[at]
    at += 1
    if byte < 128:
        return byte, at
    value, shift = byte & 127, 7
    while True:
        byte = entry[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
