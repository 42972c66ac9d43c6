"""Fills one device: segments are read and compressed on all cores, and go into packs in order.

Every distinct chunk is stored once; those that the base has are borrowed, by the base's place for
them. A large file whose chunks are those of an earlier one takes its extent. A thread may compress
a chunk that another one holds at the same time; the first in the device's order is stored, so the
result does not depend on the number of threads. Chunks that earlier starts touched go into packs
of their own, in order of first touch, even if the base has them: a start reads few long ranges.
Memory: a few batches of at most 8 MiB for each thread, twice, the packs on their way, the touched
chunks (256 MiB at most), and about 200 bytes for each chunk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

from hotstart.core.digest import ChunkDigest
from hotstart.core.progress import Progress, ProgressSink
from hotstart.core.span import PAGE
from hotstart.store.blob_store import BlobStore, Writable
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.packs import PackWriter, Placement
from hotstart.store.trace import Trace
from image_builder.errors import NotRepresentable
from image_builder.placement import FilePlacement
from image_builder.segments import (
    BufferPool,
    CutBatch,
    CutChunk,
    Segment,
    batches_of,
    read_batch,
)
from image_builder.touched_chunks import TouchedChunks

_MAX_DEVICE = ((1 << 32) - 1) * PAGE
_MAX_THREADS = 16


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A chunk that lies in a pack of the base."""

    pack: Descriptor
    chunk: Chunk


Stored = Borrowed | Placement


class BaseChunks:
    """Every chunk of an earlier image's devices, by digest."""

    def __init__(self, blobs: BlobStore, devices: Iterable[DeviceDescriptor]) -> None:
        """Read all chunk tables. Raises what the store and the tables raise."""
        self._chunks: dict[ChunkDigest, Borrowed] = {}
        for device in devices:
            for chunk in ChunkTable.open(blobs, device):
                self._chunks.setdefault(chunk.digest, Borrowed(device.packs[chunk.pack], chunk))

    def find(self, digest: ChunkDigest) -> Borrowed | None:
        """Return where the base has the chunk."""
        return self._chunks.get(digest)


@dataclass(frozen=True, slots=True)
class WrittenDevice:
    """A device whose table is in the store and whose packs are on their way; its chunks' counts."""

    descriptor: DeviceDescriptor
    trace: Trace | None
    """What earlier starts touched, at its places in this device."""
    uploaded_bytes: int
    new_chunks: int
    borrowed_chunks: int
    repeated_chunks: int


@dataclass(slots=True)
class _Extent:
    """Chunks of the group or large file being written, relative to its start."""

    chunks: list[tuple[int, ChunkDigest]] = field(default_factory=list)


class DeviceWriter:
    """Writes the device of one image: ``take`` once, then ``finish``, in a ``with`` block.

    Leaving the block waits until everything is stored, and raises what storing it raised. Leaving
    it early stores nothing more; nothing refers to what was stored so far.
    """

    def __init__(
        self,
        blobs: BlobStore,
        base: BaseChunks,
        touched: TouchedChunks,
        progress: ProgressSink,
        threads: int,
    ) -> None:
        self._blobs = blobs
        self._base = base
        self._touched = touched
        self._held: dict[ChunkDigest, tuple[bytes, bool]] = {}
        self._progress = progress
        self._threads = threads or min(os.cpu_count() or 1, _MAX_THREADS)
        self._stored: dict[ChunkDigest, Stored] = {}
        self._table: list[tuple[int, int, ChunkDigest]] = []
        self._extents: dict[tuple[ChunkDigest, ...], int] = {}
        self._pool = BufferPool()
        self._packs = PackWriter(blobs)
        self._size = 0
        self._new = self._borrowed = self._repeated = 0

    def __enter__(self) -> DeviceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._packs.__exit__(kind, error, trace)

    def take(self, segments: Iterable[Segment], total_bytes: int) -> None:
        """Store the chunks of all segments; sets ``device_offset`` of all placements.

        Full packs may still be on their way to the store. Raises what reading the files and
        writing to the store raise.
        """
        done = 0
        extent = _Extent()
        for batch in self._read(segments):
            for segment, chunks in batch.segments:
                for chunk in chunks:
                    self._take(chunk)
                extent.chunks.extend((chunk.length, chunk.digest) for chunk in chunks)
                if segment.is_last:
                    self._close(segment, extent)
                    extent = _Extent()
                done += segment.length
            self._pool.give_back(batch.buffer)
            self._progress.update(Progress("build", done, total_bytes))
        self._progress.update(Progress("build", done, total_bytes, finished=True))

    def finish(self) -> WrittenDevice:
        """Store the chunk table; the last packs may be on their way. Raises what storing raises."""
        self._store_held()
        new_packs = self._packs.finish()
        device, content = self._encode_table(new_packs)
        self._blobs.put(device.table.digest, content)
        places = ((offset, digest) for offset, _length, digest in self._table)
        return WrittenDevice(
            device,
            trace=self._touched.trace(device.device_id, places),
            uploaded_bytes=sum(pack.size for pack in new_packs) + device.table.size,
            new_chunks=self._new,
            borrowed_chunks=self._borrowed,
            repeated_chunks=self._repeated,
        )

    def _read(self, segments: Iterable[Segment]) -> Iterator[CutBatch]:
        """Yield the segments read, in order, with at most two batches for each thread under way."""
        waiting: deque[Future[CutBatch]] = deque()
        readers = ThreadPoolExecutor(self._threads, "read-source")
        try:
            for batch in batches_of(segments):
                waiting.append(readers.submit(read_batch, batch, self._pool, self._is_known))
                if len(waiting) >= 2 * self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            readers.shutdown(cancel_futures=True)

    def _is_known(self, digest: ChunkDigest) -> bool:
        """Tell whether an earlier chunk or the base has it; may be asked by any thread."""
        if digest in self._touched:
            return digest in self._held
        return digest in self._stored or self._base.find(digest) is not None

    def _take(self, chunk: CutChunk) -> None:
        """Store the chunk unless it is stored already."""
        if chunk.digest in self._stored or chunk.digest in self._held:
            self._repeated += 1
        elif chunk.digest in self._touched:
            stored, raw = _compressed(chunk)
            self._held[chunk.digest] = bytes(stored), raw
            self._new += 1
        elif (borrowed := self._base.find(chunk.digest)) is not None:
            self._stored[chunk.digest] = borrowed
            self._borrowed += 1
        else:
            self._stored[chunk.digest] = self._packs.append(*_compressed(chunk))
            self._new += 1

    def _store_held(self) -> None:
        """Lay the touched chunks out, one after another."""
        if self._held:
            self._packs.begin_pack()
        for digest in self._touched:
            if digest in self._held:
                self._stored[digest] = self._packs.append(*self._held.pop(digest))

    def _close(self, segment: Segment, extent: _Extent) -> None:
        """Give a complete group or file its place."""
        key = tuple(digest for _length, digest in extent.chunks)
        shared = None if segment.is_group else self._extents.get(key)
        place = self._size if shared is None else shared
        if shared is None:
            at = place
            for length, digest in extent.chunks:
                self._table.append((at, length, digest))
                at += length
            self._size = at
            if self._size > _MAX_DEVICE:
                raise NotRepresentable(b"", "more than 16 TiB of file data")
            if not segment.is_group:
                self._extents[key] = place
        for part in segment.parts:
            part.placement.device_offset = place
            place += part.length

    def _encode_table(self, new_packs: Sequence[Descriptor]) -> tuple[DeviceDescriptor, bytes]:
        """Return the device and its table: new packs first, then borrowed ones by first use."""
        packs = list(new_packs)
        numbers = {pack.digest: number for number, pack in enumerate(packs)}
        chunks = []
        for offset, length, digest in self._table:
            stored = self._stored[digest]
            if isinstance(stored, Borrowed):
                if stored.pack.digest not in numbers:
                    numbers[stored.pack.digest] = len(packs)
                    packs.append(stored.pack)
                old = stored.chunk
                where = (numbers[stored.pack.digest], old.pack_offset, old.stored_length, old.raw)
            else:
                where = (stored.pack, stored.offset, stored.stored_length, stored.raw)
            chunks.append(Chunk(offset, length, *where, digest))
        table = ChunkTable.encode(chunks, [pack.digest for pack in packs], self._size)
        device = DeviceDescriptor.of(
            table.content, size_bytes=self._size, head_length=table.head_length, packs=packs
        )
        return device, table.content


def _compressed(chunk: CutChunk) -> tuple[Writable, bool]:
    if chunk.stored is None:
        raise AssertionError("a chunk that nobody has was not compressed")
    return chunk.stored


def placements_total(placements: Iterable[FilePlacement]) -> int:
    """Return how many bytes all extents hold."""
    return sum(placement.extent_size for placement in placements)
