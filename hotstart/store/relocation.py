"""Relocation: where the live parts of a pack lie since a collector has rewritten it.

Chunk tables, manifests and signatures go on naming the old pack; a reader who does not find it
looks here. Found through the reference ``hotstart.relocation/<pack hex>``. Nothing is trusted for
it: each chunk is verified by the table that lists it, wherever its bytes came from.

Bytes (docs/formats/relocation.md): a head of 88 bytes, then runs (24 bytes each) in order of their
offsets in the old pack. A run is kept whole, so chunks that lay end to end do so still.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store.chunk_table_layout import MAX_DEVICE_BYTES
from hotstart.store.format_errors import FormatInvalid, check_version

MAGIC = b"HSRELOC\0"
VERSION = 1
MAX_RUNS = 1 << 16
"""More than a pack of chunks of one KiB has; a pack that would need more is not rewritten."""

_HEAD = struct.Struct("<8sHHIQ32s32s")
"""Magic, version, zero, runs, size of the new pack, old pack, new pack."""
_RUN = struct.Struct("<QQQ")
"""Offset in the old pack, length, offset in the new pack."""
MAX_BYTES = _HEAD.size + MAX_RUNS * _RUN.size


class RelocationInvalid(FormatInvalid):
    """Bytes are not a relocation."""

    format_name = "relocation"


class Run(NamedTuple):
    """``length`` bytes from ``offset`` of the old pack lie at ``target`` of the new one."""

    offset: int
    length: int
    target: int


@dataclass(frozen=True, slots=True)
class Relocation:
    """Runs of the pack ``source`` that lie in ``target``, a blob of ``target_size`` bytes."""

    source: Digest
    target: Digest
    target_size: int
    runs: tuple[Run, ...]

    def translate(self, span: Span) -> Span | None:
        """Return where a span of the old pack lies in the new one; None if it was not kept."""
        number = bisect_right(self.runs, span.offset, key=lambda run: run.offset) - 1
        if number < 0:
            return None
        run = self.runs[number]
        if span.end > run.offset + run.length:
            return None
        return Span(run.target + span.offset - run.offset, span.length)

    def encode(self) -> bytes:
        """Return the bytes. Raises ValueError for a relocation that no reader takes."""
        names = bytes.fromhex(self.source.hex), bytes.fromhex(self.target.hex)
        try:
            head = _HEAD.pack(MAGIC, VERSION, 0, len(self.runs), self.target_size, *names)
            content = b"".join([head, *(_RUN.pack(*run) for run in self.runs)])
            if Relocation.decode(content) != self:
                raise ValueError("the relocation does not survive its encoding")
        except (struct.error, FormatInvalid) as err:
            raise ValueError(f"relocation cannot be encoded: {err}") from err
        return content

    @classmethod
    def decode(cls, content: bytes) -> Relocation:
        """Read the bytes. Raises RelocationInvalid or FormatVersionUnknown."""
        if len(content) < _HEAD.size:
            raise RelocationInvalid(f"{len(content)} bytes, a head has {_HEAD.size}")
        magic, version, reserved, count, size, *names = _HEAD.unpack_from(content)
        if magic != MAGIC:
            raise RelocationInvalid("does not begin with the magic of a relocation")
        check_version("relocation", version, (VERSION,))
        if reserved or not 0 < count <= MAX_RUNS or size > MAX_DEVICE_BYTES:
            raise RelocationInvalid("fields are not as this version writes them")
        if len(content) != _HEAD.size + count * _RUN.size:
            raise RelocationInvalid(f"{len(content)} bytes, not what {count} runs have")
        source, target = (Digest(name.hex()) for name in names)
        if source == target:
            raise RelocationInvalid("leads from a pack to itself")
        runs = tuple(Run(*fields) for fields in _RUN.iter_unpack(content[_HEAD.size :]))
        _check_runs(runs, size)
        return cls(source, target, size, runs)


def _check_runs(runs: tuple[Run, ...], target_size: int) -> None:
    """Runs ascend, do not overlap, are not empty, and lie inside the new pack."""
    end = 0
    for number, run in enumerate(runs):
        if not run.length or run.offset < end or run.offset + run.length > MAX_DEVICE_BYTES:
            raise RelocationInvalid(f"run {number} is empty or out of order")
        if run.target + run.length > target_size:
            raise RelocationInvalid(f"run {number} reaches beyond the new pack")
        end = run.offset + run.length
