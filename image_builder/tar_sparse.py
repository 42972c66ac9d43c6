"""Sparse files in tar archives: the map of GNU tar's own header and of its three PAX formats.

A map lists the parts of a file that hold data; the archive has only these, one after another.
Old GNU: up to 4 pairs in the header and 21 in each block that follows. PAX 0.0: repeated records;
0.1: one record with all numbers; 1.0: decimal lines at the start of the data (GNU tar manual,
"Sparse Formats"). Parts must ascend, stay within the file and add up to the stored bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from image_builder.archive_file import ArchiveBytes, Piece
from image_builder.pax import Records
from image_builder.tar_headers import BLOCK, number, pax_number

MAX_PARTS = 1 << 20
"""A file with more parts is refused: real ones have a few thousand."""


@dataclass(frozen=True, slots=True)
class SparseMap:
    """``size`` is the file's, holes included; ``parts`` are (offset, length)."""

    size: int
    parts: tuple[tuple[int, int], ...]

    def pieces(self, start: int, stored: int) -> tuple[Piece, ...]:
        """Return the parts with their place in the archive. Raises ValueError if it can't be."""
        position, previous_end = start, 0
        pieces = []
        for offset, length in self.parts:
            if offset < previous_end or offset + length > self.size:
                raise ValueError("a sparse file's parts overlap or reach past its end")
            if length:
                pieces.append(Piece(offset, position, length))
            position += length
            previous_end = offset + length
        if position - start != stored:
            raise ValueError("a sparse file's parts don't add up to its stored size")
        return tuple(pieces)


def gnu_old_map(archive: ArchiveBytes, header_at: int) -> tuple[SparseMap, int]:
    """Read the map of an old GNU sparse header; return it and how many map blocks follow.

    Raises ValueError.
    """
    block = archive.read(header_at, BLOCK)
    size = number(block[483:495], "sparse size")
    parts = _pairs(block[386:482])
    more, blocks = block[482] != 0, 0
    while more:
        blocks += 1
        block = archive.read(header_at + blocks * BLOCK, BLOCK)
        parts += _pairs(block[:504])
        more = block[504] != 0
        if len(parts) > MAX_PARTS:
            raise ValueError(f"a sparse file has more than {MAX_PARTS} parts")
    return SparseMap(_not_negative(size), tuple(parts)), blocks


def _pairs(field: bytes) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(field), 24):
        if field[at] == 0:
            break
        pairs.append(
            (
                _not_negative(number(field[at : at + 12], "sparse offset")),
                _not_negative(number(field[at + 12 : at + 24], "sparse length")),
            )
        )
    return pairs


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("a sparse file has a negative number in its map")
    return value


def pax_sparse(
    records: Records, archive: ArchiveBytes, start: int, stored: int, name: bytes
) -> tuple[SparseMap, bytes, int]:
    """Return the map, the file's real name, and how many stored bytes the map itself takes.

    Raises ValueError.
    """
    real_name = records.last("GNU.sparse.name")
    name = name if real_name is None else real_name
    if records.last("GNU.sparse.major") == b"1":
        size = _required(records, "GNU.sparse.realsize")
        parts, used = _map_in_data(archive, start, stored)
        return SparseMap(size, parts), name, used
    size = _required(records, "GNU.sparse.size")
    listed = records.last("GNU.sparse.map")
    if listed is not None:
        numbers = [pax_number(text, "sparse map") for text in listed.split(b",") if text]
    else:
        numbers = [
            pax_number(value, key)
            for key, value in records.all
            if key in ("GNU.sparse.offset", "GNU.sparse.numbytes")
        ]
    return SparseMap(size, _as_parts(numbers)), name, 0


def _required(records: Records, key: str) -> int:
    value = records.last(key)
    if value is None:
        raise ValueError(f"a sparse file has no {key}")
    return pax_number(value, key)


def _as_parts(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_PARTS:
        raise ValueError("a sparse file's map is incomplete or too long")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _map_in_data(
    archive: ArchiveBytes, start: int, stored: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    lines: list[bytes] = []
    used, rest = 0, b""
    wanted = None
    while wanted is None or len(lines) < wanted:
        if used + BLOCK > stored:
            raise ValueError("a sparse file's map is longer than its data")
        block = rest + archive.read(start + used, BLOCK)
        used += BLOCK
        *complete, rest = block.split(b"\n")
        lines += complete
        if wanted is None and lines:
            count = pax_number(lines[0], "sparse map")
            if count > MAX_PARTS:
                raise ValueError(f"a sparse file has more than {MAX_PARTS} parts")
            wanted = 1 + 2 * count
        is_short = wanted is None or len(lines) < wanted
        if is_short and len(rest) > 32:
            raise ValueError("a sparse file's map holds something that is not a number")
    return _as_parts([pax_number(line, "sparse map") for line in lines[1:wanted]]), used
