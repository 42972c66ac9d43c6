"""Bytes of a task: fetched by one request, decoded, verified, written, and only then marked ready.

A piece whose bytes are not what its digest says is fetched once more (a bad byte may have come on
the way); if it is wrong again, that is an IntegrityError and the reader gets EIO. No byte reaches
a device unverified. Holds no state of its own; every method may run in any thread.
"""

from __future__ import annotations

from blake3 import blake3

from hotstart.core.digest import DigestMismatch
from hotstart.core.errors import IntegrityError
from hotstart.core.log import get_logger
from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import Content
from hotstart.store.packs import decode
from lazyfs.crash_points import CrashPoint, Passage, no_crash
from lazyfs.pieces import Piece, Task
from lazyfs.stores import StorePool

log = get_logger(__name__)


class Fetcher:
    """Fills pieces out of the stores of ``stores``."""

    def __init__(self, stores: StorePool, passage: Passage = no_crash) -> None:
        self._stores = stores
        self._passage = passage

    def fetch(self, task: Task) -> memoryview:
        """Return the bytes of the task's span. Raises what the store raises."""
        content = self._stores.get(task.store_url).blobs.read(task.blob, task.span)
        self._passage(CrashPoint.FETCHED)
        return memoryview(content)

    def fill(self, task: Task, piece: Piece, stored: Content) -> None:
        """Verify a piece's stored bytes and write them to all its targets.

        Raises IntegrityError (wrong twice), what the store raises, or OSError (device full).
        """
        try:
            content = _verified(task, piece, stored)
        except IntegrityError as err:
            self._note_mismatch(piece, err)
            again = Span(piece.offset, piece.stored_length)
            stored = self._stores.get(task.store_url).blobs.read(task.blob, again)
            content = _verified(task, piece, stored)
        view = memoryview(content)
        for target in piece.targets:
            end = target.offset + target.pages * PAGE
            target.device.fill(target.first_page, view[target.offset : end], self._written)
            self._passage(CrashPoint.READY_SET)

    def _written(self) -> None:
        self._passage(CrashPoint.WRITTEN)

    def _note_mismatch(self, piece: Piece, err: IntegrityError) -> None:
        piece.targets[0].device.counters.mismatches += 1
        log.warning("chunk_mismatch", error=str(err), action="fetching it once more")


def _verified(task: Task, piece: Piece, stored: Content) -> Content:
    """Return the piece's bytes. Raises IntegrityError unless they are what its digest says."""
    content = decode(stored, raw=piece.raw, length=piece.length)
    actual = blake3(content).digest()
    if actual != piece.digest or len(content) != piece.length:
        source = f"{task.store_url}: blob {task.blob} at {piece.offset}+{piece.stored_length}"
        raise DigestMismatch(source, f"blake3:{piece.digest.hex()}", f"blake3:{actual.hex()}")
    return content
