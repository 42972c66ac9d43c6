"""The table of a device of weights: pieces of objects, and the digest that each had at first.

Looks like a chunk table to the fill engine. An object of a foreign bucket has no digest until it is
read: the first fetch of a piece, which came with the pinned ETag, is believed, and its BLAKE3 is
kept in ``cache/digests/<device_id>`` (docs/formats/object-list.md) *before* the piece is written
and its pages are ready. Whatever is fetched of it later, or found on the disk after a power loss,
must have that digest. The file outlives the device file that it speaks of, and is mapped: what was
kept survives the death of the worker.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from blake3 import blake3

from hotstart.core.digest import ChunkDigest, DigestMismatch
from hotstart.core.errors import NotFound, UserError
from hotstart.core.span import Span
from hotstart.store.blob_store import Content
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.object_list import DevicePiece, ObjectList, ObjectListInvalid
from hotstart.store.pinned_object import PinnedObject
from lazyfs.spec import DeviceSpec

DIGEST_BYTES = 32
HEADER_BYTES = 4096
_MAGIC = b"HSDIGEST"
_VERSION = 1
_UNKNOWN = bytes(DIGEST_BYTES)


class ObjectListMissing(NotFound):
    """The cache has lost what a device is made of."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: the object list of these weights is missing",
            "unmount them and mount them again",
        )
        self.path = path


class ObjectTable:
    """An open table. Takes over ``kept``; shared by threads."""

    def __init__(self, listed: ObjectList, kept: KeptDigests) -> None:
        self._listed = listed
        self._kept = kept
        self.packs: Sequence[PinnedObject] = listed.objects
        self.device_size = listed.device_size

    def __len__(self) -> int:
        return self._listed.piece_count

    def __iter__(self) -> Iterator[Chunk]:
        return map(self._chunk, self._listed.between(Span(0, self.device_size)))

    def between(self, span: Span) -> list[Chunk]:
        """Return the pieces that hold bytes of ``span``, in order."""
        return list(map(self._chunk, self._listed.between(span)))

    def verified(self, pinned: PinnedObject, offset: int, stored: Content) -> Content:
        """Return a piece's bytes, zeros behind the object's end, if it came so before, or never.

        Raises DigestMismatch if other bytes came first.
        """
        short = -len(stored) % mmap.PAGESIZE
        content = bytes(stored) + bytes(short) if short else stored
        number = self._listed.piece_number(pinned, offset)
        actual = ChunkDigest(blake3(content).digest())
        expected = self._kept.get(number)
        if expected == _UNKNOWN:
            self._kept.set(number, actual)
        elif expected != actual:
            source = f"{self._listed.url}: {pinned} at {offset}+{len(stored)}, fetched again"
            raise DigestMismatch(source, f"blake3:{expected.hex()}", f"blake3:{actual.hex()}")
        return content

    def sync(self) -> None:
        """Have what is kept on disk. Raises OSError."""
        self._kept.sync()

    def close(self) -> None:
        """Close the file of digests."""
        self._kept.close()

    def _chunk(self, piece: DevicePiece) -> Chunk:
        return Chunk(
            device_offset=piece.device_offset,
            length=piece.length,
            pack=piece.pinned.number,
            pack_offset=piece.offset,
            stored_length=piece.stored_length,
            raw=True,
            digest=self._kept.get(piece.number),
        )


Table: TypeAlias = ChunkTable | ObjectTable
"""Where the bytes of a device come from."""


class KeptDigests:
    """The digests of a device's pieces, in a file. A digest is stored once and never replaced."""

    def __init__(self, path: Path, device_id: str, count: int) -> None:
        """Open the file, or begin it anew where it is none of this device. Raises OSError."""
        header = _MAGIC + _VERSION.to_bytes(8, "little") + bytes.fromhex(device_id)
        size = HEADER_BYTES + count * DIGEST_BYTES
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # a worker may still be ending
            if os.pread(fd, len(header), 0) != header or os.fstat(fd).st_size != size:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, size)
                os.pwrite(fd, header, 0)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def get(self, number: int) -> ChunkDigest:
        """Return a piece's digest; zeros, which none has, if it never came."""
        at = HEADER_BYTES + number * DIGEST_BYTES
        return ChunkDigest(self._map[at : at + DIGEST_BYTES])

    def set(self, number: int, digest: ChunkDigest) -> None:
        """Keep a digest."""
        at = HEADER_BYTES + number * DIGEST_BYTES
        self._map[at : at + DIGEST_BYTES] = digest

    def sync(self) -> None:
        """Put it on disk."""
        self._map.flush()

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


def digests_path(objects: Path) -> Path:
    """Return the file of digests of the device whose object list is at ``objects``."""
    return objects.parent.parent / "digests" / objects.stem


def open_object_table(spec: DeviceSpec, path: Path) -> ObjectTable:
    """Return the table of the object list at ``path``, which must have the digest in ``spec``.

    Raises ObjectListMissing, DigestMismatch, ObjectListInvalid, UserError (disk full).
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as err:
        raise ObjectListMissing(path) from err
    spec.table.digest.check(content, f"{path}: object list")
    listed = ObjectList.decode(content)
    if listed.device_size != spec.size_bytes or listed.url != spec.store_url:
        raise ObjectListInvalid(f"{path}: another device than the one that is mounted")
    try:
        kept = KeptDigests(digests_path(path), spec.device_id, listed.piece_count)
    except OSError as err:
        raise UserError(f"{path}: cannot keep digests: {err.strerror}", "make room") from err
    return ObjectTable(listed, kept)
