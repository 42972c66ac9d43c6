"""Packs: blobs of about 64 MiB in which stored chunks lie one after another, nothing between.

A chunk is stored as one zstd frame, or as it is where zstd saves less than 12 % (weights: decoding
barely compressible bytes costs more than moving them). Where a chunk lies is written in the chunk
table only; a pack has no header.

PackWriter lays chunks out in the order in which it is given them, so the same chunks give the same
packs; compressing them is its callers' work, in as many threads as they like. A pack is named and
becomes a blob when it is full, the last one in finish(); leaving the ``with`` block waits for the
store. Leaving it by an exception stores nothing more; packs already stored are then blobs that
nothing refers to.
"""

from __future__ import annotations

import mmap
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
"""Full packs in flight; each holds PACK_BYTES of memory until it is stored."""


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


@dataclass(slots=True)
class _OpenPack:
    """A pack that grows at the front of a buffer."""

    buffer: mmap.mmap
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A full pack: ``named`` when its digest is known, ``stored`` when it is a blob."""

    named: Future[Descriptor]
    stored: Future[None]


class PackWriter:
    """Lays stored chunks into packs and stores those. Thread-safe; the order is that of the calls.

    Packs grow in buffers that are used again: one that is open, and those on their way.
    """

    def __init__(self, blobs: BlobStore, *, target_size: int = PACK_BYTES) -> None:
        self._blobs = blobs
        self._target_size = target_size
        self._lock = threading.Lock()
        self._uploaders = ThreadPoolExecutor(_UPLOADS, "store-pack")
        self._upload_slots = threading.Semaphore(_UPLOADS)
        self._free: list[mmap.mmap] = []
        self._open: _OpenPack | None = None
        self._sealed: list[_Sealed] = []
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
        if error is None:
            for pack in self._sealed:
                pack.stored.result()

    def add(self, content: Writable) -> Placement:
        """Compress a chunk in this thread, lay it into a pack, and return where it lies."""
        return self.append(*compress(content))

    def append(self, stored: Writable, raw: bool) -> Placement:
        """Lay what ``compress`` returned into a pack, as a copy, and return where it lies.

        Blocks while full packs wait for the store. Raises what storing an earlier pack raised.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the pack writer is closed")
            pack = self._pack_for(len(stored))
            placement = Placement(len(self._sealed), pack.size, len(stored), raw)
            pack.size += len(stored)
            pack.buffer[placement.offset : pack.size] = stored
            return placement

    def begin_pack(self) -> None:
        """Let the next chunk be the first of a pack. Raises what storing an earlier pack raised."""
        with self._lock:
            if self._open is not None:
                self._seal(self._open)

    def finish(self) -> tuple[Descriptor, ...]:
        """Return all packs by their numbers; the last ones may still be on their way.

        They are stored when the ``with`` block has been left, and only then may anything refer to
        them. Raises what storing a pack has raised. No chunk may be added afterwards.
        """
        with self._lock:
            if self._open is not None:
                self._seal(self._open)
            self._closed = True
            return tuple(pack.named.result() for pack in self._sealed)

    def _pack_for(self, length: int) -> _OpenPack:
        """Return the pack that takes the next ``length`` bytes."""
        pack = self._open
        if pack is not None and pack.size + length > self._target_size:
            self._seal(pack)
            pack = None
        if pack is None:
            pack = self._open = _OpenPack(self._buffer(length))
        return pack

    def _buffer(self, length: int) -> mmap.mmap:
        """Return a buffer for a pack whose first chunk has ``length`` stored bytes."""
        if self._free and length <= self._target_size:
            return self._free.pop()
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        buffer = mmap.mmap(-1, max(self._target_size, length), flags=private)
        with suppress(OSError):  # EINVAL from a kernel without huge pages
            buffer.madvise(mmap.MADV_HUGEPAGE)
        return buffer

    def _seal(self, pack: _OpenPack) -> None:
        """Hand the open pack to the store; wait while too many are on their way."""
        for sealed in self._sealed:
            if sealed.stored.done():
                sealed.stored.result()
        self._open = None
        self._upload_slots.acquire()
        named: Future[Descriptor] = Future()
        self._sealed.append(_Sealed(named, self._uploaders.submit(self._store, pack, named)))

    def _store(self, pack: _OpenPack, named: Future[Descriptor]) -> None:
        try:
            content = memoryview(pack.buffer)[: pack.size]
            try:
                digest = Digest.of(content)
                named.set_result(Descriptor(media_types.PACK, digest, pack.size))
            except BaseException as err:  # whoever waits for the name must not wait for good
                named.set_exception(err)
                raise
            self._blobs.put(digest, content, is_checked=True)
            # A request that the store has given up may read it still: then nobody writes there.
            with suppress(BufferError):
                content.release()
                self._free.append(pack.buffer)
        finally:
            self._upload_slots.release()

    def _close(self) -> None:
        self._closed = True
        self._uploaders.shutdown(cancel_futures=True)
