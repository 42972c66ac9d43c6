"""Packs: blobs of about 64 MiB in which stored chunks lie one after another, nothing between.

A chunk is stored as one zstd frame, or as it is where zstd saves less than 12 % (weights: decoding
barely compressible bytes costs more than moving them). Where a chunk lies is written in the chunk
table only; a pack has no header.

PackWriter compresses on all cores and still lays chunks out in the order in which they were
submitted, so the same chunks give the same packs whatever the number of threads. A pack becomes
a blob when it is full, and the last one in finish(). Leaving the ``with`` block by an exception
stores nothing more; packs already stored are then blobs that nothing refers to.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from blake3 import blake3

from hotstart.core.digest import ChunkDigest, Digest, DigestMismatch
from hotstart.store import media_types, zstd_frame
from hotstart.store.blob_store import BlobStore, Content, Writable
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatInvalid

PACK_BYTES = 64 << 20
RAW_THRESHOLD = 0.88
"""Stored raw unless the frame is at most this share of the content."""
_UPLOADS = 2
"""Full packs in flight; each holds about PACK_BYTES of memory until it is stored."""


class ChunkInvalid(FormatInvalid):
    """Stored bytes of a chunk cannot be decoded to its length."""

    format_name = "stored chunk"


def chunk_digest(content: Content | bytearray) -> ChunkDigest:
    """Return the digest that names a chunk's uncompressed bytes."""
    return ChunkDigest(blake3(content).digest())


def compress(content: Writable) -> tuple[Content | bytearray, bool]:
    """Return the bytes to store and whether they are raw (``content`` itself, not a copy)."""
    stored = zstd_frame.compress(content)
    if len(stored) > RAW_THRESHOLD * len(content):
        return content, True
    return stored, False


def _compress_all(contents: Sequence[Writable]) -> list[tuple[Content | bytearray, bool]]:
    return [compress(content) for content in contents]


def decode(stored: Content, raw: bool, length: int) -> Content:
    """Return the ``length`` bytes of a stored chunk, unverified. Raises ChunkInvalid."""
    if raw:
        if len(stored) != length:
            raise ChunkInvalid(f"{len(stored)} raw bytes, expected {length}")
        return stored
    try:
        return zstd_frame.decompress(stored, length)
    except zstd_frame.FrameInvalid as err:
        raise ChunkInvalid(str(err)) from err


def decode_verified(
    stored: Content, *, raw: bool, length: int, digest: ChunkDigest, source: str
) -> Content:
    """Return the bytes of a stored chunk that have this digest; the only way to use them.

    ``source`` names the place in messages. Raises ChunkInvalid or DigestMismatch.
    """
    content = decode(stored, raw, length)
    actual = chunk_digest(content)
    if actual != digest:
        raise DigestMismatch(source, digest.hex(), actual.hex())
    return content


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a chunk lies: pack number of this writer, offset and stored length in bytes."""

    pack: int
    offset: int
    stored_length: int
    raw: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    """Chunks that are compressed by one thread, and who waits for their places."""

    stored: Future[list[tuple[Content | bytearray, bool]]]
    placed: list[Future[Placement]]


@dataclass(slots=True)
class _OpenPack:
    parts: list[Content | bytearray]
    size: int
    sha256: hashlib._Hash


def _new_pack() -> _OpenPack:
    return _OpenPack([], 0, hashlib.sha256())


class PackWriter:
    """Lays chunks into packs and stores those. Thread-safe; the order is that of submit()."""

    def __init__(
        self, blobs: BlobStore, *, target_size: int = PACK_BYTES, threads: int | None = None
    ) -> None:
        count = threads or os.cpu_count() or 1
        self._blobs = blobs
        self._target_size = target_size
        self._lock = threading.Lock()
        self._compressors = ThreadPoolExecutor(count, "compress")
        self._uploaders = ThreadPoolExecutor(_UPLOADS, "store-pack")
        self._upload_slots = threading.Semaphore(_UPLOADS)
        self._waiting: deque[_Batch] = deque()
        self._limit = 2 * count
        self._open = _new_pack()
        self._stored: list[Future[Descriptor]] = []
        self._closed = False

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def submit(self, contents: Sequence[Writable]) -> list[Future[Placement]]:
        """Take chunks, which must not change until their futures are done; one core compresses all.

        Blocks while many batches wait for a core or full packs wait for the store. The futures are
        done at the latest when finish() returns. Raises what storing an earlier pack raised.
        """
        placed: list[Future[Placement]] = [Future() for _ in contents]
        with self._lock:
            if self._closed:
                raise RuntimeError("the pack writer is closed")
            if placed:
                self._waiting.append(
                    _Batch(self._compressors.submit(_compress_all, contents), placed)
                )
            self._place(leave=self._limit)
        return placed

    def add(self, content: Writable) -> Placement:
        """Take one chunk and return where it lies. For callers that need no parallel work."""
        (placed,) = self.submit([content])
        with self._lock:
            self._place(leave=0)
        return placed.result()

    def finish(self) -> tuple[Descriptor, ...]:
        """Place everything, store the last pack, and return all packs by their numbers.

        Raises what storing a pack raised. No chunk may be submitted afterwards.
        """
        with self._lock:
            self._place(leave=0)
            if self._open.parts:
                self._seal()
            self._closed = True
            packs = tuple(stored.result() for stored in self._stored)
        self._close()
        return packs

    def _place(self, *, leave: int) -> None:
        """Lay out batches in order: those already compressed, and all but the last ``leave``."""
        while self._waiting and (self._waiting[0].stored.done() or len(self._waiting) > leave):
            batch = self._waiting.popleft()
            placed = iter(batch.placed)
            try:
                for stored, raw in batch.stored.result():
                    placement = self._append(stored, raw)
                    next(placed).set_result(placement)
            except BaseException as err:
                for left in placed:
                    left.set_exception(err)
                raise

    def _append(self, stored: Content | bytearray, raw: bool) -> Placement:
        if self._open.size and self._open.size + len(stored) > self._target_size:
            self._seal()
        pack = self._open
        placement = Placement(len(self._stored), pack.size, len(stored), raw)
        pack.parts.append(bytes(stored))
        pack.sha256.update(stored)
        pack.size += len(stored)
        return placement

    def _seal(self) -> None:
        """Hand the open pack to the store; wait while too many are on their way."""
        for stored in self._stored:
            if stored.done():
                stored.result()
        pack, self._open = self._open, _new_pack()
        self._upload_slots.acquire()
        self._stored.append(self._uploaders.submit(self._store, pack))

    def _store(self, pack: _OpenPack) -> Descriptor:
        try:
            digest = Digest(pack.sha256.hexdigest())
            self._blobs.put(digest, b"".join(pack.parts))
            return Descriptor(media_types.PACK, digest, pack.size)
        finally:
            self._upload_slots.release()

    def _close(self) -> None:
        self._closed = True
        while self._waiting:
            # Nobody may wait for a place that will never be given.
            for placed in self._waiting.popleft().placed:
                placed.cancel()
        self._compressors.shutdown(cancel_futures=True)
        self._uploaders.shutdown(cancel_futures=True)
