"""Start bundle: the recorded pages of a start in order of use, as one blob of frames.

The blob is stored frames one after another, nothing between. The index (docs/formats/bundle.md)
says where each frame is, its BLAKE3, and which runs of device pages it holds, in the order in which
their bytes lie in it; so a bundle needs no chunk table, and is only as good as whoever signed the
index. ``memory_order`` is the working set: runs of pages in the snapshot's memory files, in the
order to install them.

Index bytes: a head of 40 bytes, device ids (32 each), then one zstd frame of frame entries (56
each), their runs (16 each) and the memory runs (16 each). Everything here is pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from hotstart.core.digest import ChunkDigest
from hotstart.core.errors import NotFound
from hotstart.core.span import PAGE
from hotstart.store import zstd_frame
from hotstart.store.format_errors import FormatInvalid, check_version
from hotstart.store.packs import chunk_digest, compress
from hotstart.store.page_runs import MAX_PAGE, MAX_RUN_PAGES, Run, coalesce
from hotstart.store.trace import MAX_SPANS, Trace, TraceSpan

__all__ = ["BundleIndex", "BundleIndexInvalid", "BundleWriter", "Frame", "Run"]

MAGIC = b"HSBUNDLE"
VERSION = 1
FRAME_BYTES = 1 << 20
"""Uncompressed bytes after which a frame is closed."""
MAX_FRAME_BYTES = 16 << 20
MAX_FRAMES = 1 << 20
MAX_RUNS = 8 << 20
MAX_DEVICES = 4096

_HEAD = struct.Struct("<8sHHIIIII8x")
_FRAME = struct.Struct("<QIIII32s")
_RUN = struct.Struct("<IIQ")
_ID_BYTES = 32
_FLAG_RAW = 1


class BundleIndexInvalid(FormatInvalid):
    """Bytes are not the index of a start bundle."""

    format_name = "bundle index"


class NoStartBundle(NotFound):
    """The snapshot was captured without a recording."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"{reference}: the snapshot has no start bundle", "capture it again with --golden"
        )
        self.reference = reference


@dataclass(frozen=True, slots=True)
class Frame:
    """One stored frame: where it is in the bundle, what it holds, and the digest of its bytes."""

    offset: int
    stored_length: int
    length: int
    raw: bool
    digest: ChunkDigest
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class BundleIndex:
    """All frames by offset; run devices are numbers into ``device_ids``.

    In ``memory_order`` a run's ``device`` is the number of a memory file in the snapshot's
    config, and pages count from the beginning of that file.
    """

    device_ids: tuple[str, ...]
    frames: tuple[Frame, ...]
    memory_order: tuple[Run, ...] = ()

    @property
    def stored_bytes(self) -> int:
        """Size of the bundle."""
        return self.frames[-1].offset + self.frames[-1].stored_length if self.frames else 0

    def as_trace(self) -> Trace:
        """Return which pages the frames bring, in order of use: for whoever doesn't believe them.

        A trace is fetched chunk by chunk, each held to the digest in its device's chunk table. It
        has the first MAX_SPANS runs: what lies behind them is fetched when it is asked for.
        """
        runs = islice((run for frame in self.frames for run in frame.runs), MAX_SPANS)
        spans = tuple(TraceSpan(0, run.device, run.first_page, run.pages) for run in runs)
        return Trace(self.device_ids, spans)

    def encode(self) -> bytes:
        """Return the bytes. Raises ValueError for an index that no reader takes."""
        try:
            content = self._encode()
            if BundleIndex.decode(content) != self:
                raise ValueError("the bundle index does not survive its encoding")
        except (struct.error, FormatInvalid) as err:
            raise ValueError(f"bundle index cannot be encoded: {err}") from err
        return content

    def _encode(self) -> bytes:
        runs = [run for frame in self.frames for run in frame.runs]
        body = b"".join(
            [
                *(_pack_frame(frame) for frame in self.frames),
                *(_RUN.pack(run.device, run.pages, run.first_page) for run in runs),
                *(_RUN.pack(run.device, run.pages, run.first_page) for run in self.memory_order),
            ]
        )
        stored = zstd_frame.compress(body)
        counts = (len(self.device_ids), len(self.frames), len(runs), len(self.memory_order))
        head = _HEAD.pack(MAGIC, VERSION, 0, *counts, len(stored))
        return b"".join([head, *(bytes.fromhex(i) for i in self.device_ids), stored])

    @classmethod
    def decode(cls, content: bytes) -> BundleIndex:
        """Read the bytes. Raises BundleIndexInvalid or FormatVersionUnknown."""
        if len(content) < _HEAD.size:
            raise BundleIndexInvalid(f"{len(content)} bytes, a head has {_HEAD.size}")
        fields = _HEAD.unpack_from(content)
        magic, version, reserved, devices, frames, runs, memory_runs, stored = fields
        if magic != MAGIC:
            raise BundleIndexInvalid("does not begin with the magic of a bundle index")
        check_version("bundle index", version, (VERSION,))
        if reserved or any(content[_HEAD.size - 8 : _HEAD.size]) or devices > MAX_DEVICES:
            raise BundleIndexInvalid("fields are not as this version writes them")
        if frames > MAX_FRAMES or runs > MAX_RUNS or memory_runs > MAX_RUNS:
            raise BundleIndexInvalid(f"{frames} frames with {runs} and {memory_runs} runs")
        start = _HEAD.size + _ID_BYTES * devices
        if len(content) != start + stored:
            raise BundleIndexInvalid(f"{len(content)} bytes, expected {start + stored}")
        ids = tuple(
            content[at : at + _ID_BYTES].hex() for at in range(_HEAD.size, start, _ID_BYTES)
        )
        body = _Body(content[start:], frames=frames, runs=runs, memory_runs=memory_runs)
        return cls(ids, tuple(body.frames(devices)), body.memory_order())


class _Body:
    """The decompressed part of an index, cut into its three tables."""

    def __init__(self, stored: bytes, *, frames: int, runs: int, memory_runs: int) -> None:
        frames_end = frames * _FRAME.size
        runs_end = frames_end + runs * _RUN.size
        try:
            body = zstd_frame.decompress(stored, runs_end + memory_runs * _RUN.size)
        except zstd_frame.FrameInvalid as err:
            raise BundleIndexInvalid(str(err)) from err
        self._frames = body[:frames_end]
        self._runs = body[frames_end:runs_end]
        self._memory_runs = body[runs_end:]

    def frames(self, devices: int) -> Iterator[Frame]:
        """Yield each frame with its runs, checked."""
        runs = [_run(fields, devices) for fields in _RUN.iter_unpack(self._runs)]
        offset, position = 0, 0
        for at, stored, length, flags, count, digest in _FRAME.iter_unpack(self._frames):
            own = tuple(runs[position : position + count])
            position += count
            if at != offset or not 0 < stored <= MAX_FRAME_BYTES or flags & ~_FLAG_RAW:
                raise BundleIndexInvalid(f"frame at {at}, expected {offset}, stored {stored}")
            if length > MAX_FRAME_BYTES or sum(run.pages for run in own) * PAGE != length:
                raise BundleIndexInvalid(f"frame at {at} has {length} bytes, its runs differ")
            if flags and stored != length:
                raise BundleIndexInvalid(f"raw frame at {at} is stored in {stored} bytes")
            offset += stored
            yield Frame(at, stored, length, bool(flags), ChunkDigest(digest), own)
        if position != len(runs):
            raise BundleIndexInvalid(f"frames have {position} runs, the index has {len(runs)}")

    def memory_order(self) -> tuple[Run, ...]:
        """Return the working set."""
        return tuple(_run(fields, MAX_DEVICES) for fields in _RUN.iter_unpack(self._memory_runs))


def _pack_frame(frame: Frame) -> bytes:
    flags = _FLAG_RAW if frame.raw else 0
    counts = (frame.stored_length, frame.length, flags, len(frame.runs))
    return _FRAME.pack(frame.offset, *counts, frame.digest)


def _run(fields: tuple[int, int, int], devices: int) -> Run:
    device, pages, first = fields
    if device >= devices or first > MAX_PAGE or not 0 < pages <= MAX_RUN_PAGES:
        raise BundleIndexInvalid(f"run of {pages} pages at {first} of device {device}")
    return Run(device, first, pages)


class BundleWriter:
    """Collects runs in order of use into frames. Not thread-safe; the bundle stays in memory."""

    def __init__(self, device_ids: tuple[str, ...], *, frame_bytes: int = FRAME_BYTES) -> None:
        if frame_bytes % PAGE or not 0 < frame_bytes <= MAX_FRAME_BYTES:
            raise ValueError(f"frames of {frame_bytes} bytes are not whole pages within limits")
        self._device_ids = device_ids
        self._frame_bytes = frame_bytes
        self._open: dict[Run, bytes] = {}
        self._open_bytes = 0
        self._stored: list[bytes] = []
        self._frames: list[Frame] = []
        self._offset = 0

    def add(self, run: Run, content: bytes | memoryview) -> None:
        """Append the ``content`` of a run; runs must not overlap."""
        view = memoryview(content)
        if len(view) != run.pages * PAGE or run.device >= len(self._device_ids):
            raise ValueError(f"{len(view)} bytes for {run}")
        first, end = run.first_page, run.end_page
        while first < end:
            pages = min(end - first, (self._frame_bytes - self._open_bytes) // PAGE)
            start = (first - run.first_page) * PAGE
            piece = view[start : start + pages * PAGE]
            self._open[Run(run.device, first, pages)] = bytes(piece)
            self._open_bytes += len(piece)
            first += pages
            if self._open_bytes == self._frame_bytes:
                self._close_frame()

    def finish(self, memory_order: tuple[Run, ...] = ()) -> tuple[bytes, BundleIndex]:
        """Return the bundle and its index; the writer is empty afterwards."""
        if self._open:
            self._close_frame()
        bundle = b"".join(self._stored)
        index = BundleIndex(self._device_ids, tuple(self._frames), memory_order)
        self._stored, self._frames, self._offset = [], [], 0
        return bundle, index

    def _close_frame(self) -> None:
        # Sorted within a frame: a frame becomes usable as a whole, and joined runs are few writes.
        content = b"".join(self._open[run] for run in sorted(self._open))
        stored, raw = compress(content)
        runs = tuple(coalesce(self._open))
        digest = chunk_digest(content)
        frame = Frame(self._offset, len(stored), len(content), raw, digest, runs)
        self._frames.append(frame)
        self._stored.append(bytes(stored))
        self._offset += len(stored)
        self._open, self._open_bytes = {}, 0
