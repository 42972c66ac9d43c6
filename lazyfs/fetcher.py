"""Bytes of a task: fetched by one request, decoded, verified, written, and only then marked ready.

A piece whose bytes are not what its digest says is fetched once more (a bad byte may have come on
the way); if it is wrong again, it is put into quarantine, one line says so, and its readers get EIO
without a request until it is let out (quarantine.py). No byte reaches a device unverified. Every
method may run in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from hotstart.core.digest import DigestMismatch
from hotstart.core.errors import IntegrityError
from hotstart.core.log import get_logger
from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import Content
from hotstart.store.packs import decode
from hotstart.store.pinned_object import PinnedObject
from lazyfs.crash_points import CrashPoint, Passage, no_crash
from lazyfs.object_table import ObjectTable
from lazyfs.pieces import Piece, Target, Task
from lazyfs.quarantine import QUARANTINE_S, ChunkQuarantined, Quarantine
from lazyfs.stores import StorePool

log = get_logger(__name__)


class Fetcher:
    """Fills pieces out of the stores of ``stores``."""

    def __init__(
        self,
        stores: StorePool,
        passage: Passage = no_crash,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._stores = stores
        self._passage = passage
        self.quarantine = quarantine if quarantine is not None else Quarantine()

    def fetch(self, task: Task) -> memoryview:
        """Return the bytes of the task's span. Raises what the store raises, ChunkQuarantined.

        The latter only if none of the task's pieces may be fetched: the others are wanted.
        """
        for piece in task.pieces:
            if not self.quarantine.left_s(piece.digest):
                break
        else:
            self._refuse_quarantined(task, task.pieces[0])
        content = self._read(task, task.span)
        self._passage(CrashPoint.FETCHED)
        return memoryview(content)

    def fill(self, task: Task, piece: Piece, stored: Content) -> None:
        """Verify a piece's stored bytes and write them to all its targets.

        Raises ChunkQuarantined (wrong twice), what the store raises, or OSError (device full).
        """
        view = memoryview(self.verified(task, piece, stored))
        for target in piece.targets:
            end = target.offset + target.pages * PAGE
            self.write(target, [view[target.offset : end]])

    def verified(self, task: Task, piece: Piece, stored: Content) -> Content:
        """Return a piece's bytes out of its stored ones; fetched once more if those are wrong.

        Raises ChunkQuarantined (wrong twice), what the store raises.
        """
        self._refuse_quarantined(task, piece)
        try:
            return _verified(task, piece, stored)
        except IntegrityError as err:
            return self._fetched_again(task, piece, err)

    def write(self, target: Target, parts: Sequence[memoryview]) -> None:
        """Write verified bytes from a target's first page on, and mark the pages ready."""
        target.device.fill(target.first_page, parts, self._written)
        self._passage(CrashPoint.READY_SET)

    def _refuse_quarantined(self, task: Task, piece: Piece) -> None:
        left_s = self.quarantine.left_s(piece.digest)
        if left_s:
            raise ChunkQuarantined(_source(task, piece), piece.digest, left_s)

    def _fetched_again(self, task: Task, piece: Piece, err: IntegrityError) -> Content:
        """Return the bytes of a piece that came wrong once. Raises ChunkQuarantined."""
        counters = piece.targets[0].device.counters
        counters.mismatches += 1
        log.warning("chunk_mismatch", error=str(err), action="fetching it once more")
        span = Span(piece.offset, piece.stored_length)
        stored = self._read(task, span)
        try:
            return _verified(task, piece, stored)
        except IntegrityError as again:
            counters.mismatches += 1
            if isinstance(task.blob, PinnedObject):
                raise  # what a piece is known by in the quarantine it may not have had yet
            counters.quarantined += 1
            self.quarantine.put(piece.digest)
            log.error(  # noqa: TRY400  # expected: no traceback
                "chunk_quarantined",
                device=piece.targets[0].device.device_id,
                page=piece.targets[0].first_page,
                error=str(again),
                for_s=QUARANTINE_S,
                action="readers get EIO; verify the store (hotstart verify) and build again",
            )
            raise ChunkQuarantined(_source(task, piece), piece.digest, QUARANTINE_S) from again

    def _read(self, task: Task, span: Span) -> Content:
        source = task.blob
        if isinstance(source, PinnedObject):
            return self._stores.objects(task.store_url).read(source, span)
        return self._stores.get(task.store_url).blobs.read(source, span)

    def _written(self) -> None:
        self._passage(CrashPoint.WRITTEN)


def _source(task: Task, piece: Piece) -> str:
    return f"{task.store_url}: blob {task.blob} at {piece.offset}+{piece.stored_length}"


def _verified(task: Task, piece: Piece, stored: Content) -> Content:
    """Return the piece's bytes. Raises IntegrityError unless they are what its digest says.

    A piece of a pinned object that comes for the first time gives itself its digest.
    """
    if isinstance(task.blob, PinnedObject):
        table = piece.targets[0].device.table()
        assert isinstance(table, ObjectTable)  # noqa: S101  # only such a one names objects
        return table.verified(task.blob, piece.offset, stored)
    content = decode(stored, raw=piece.raw, length=piece.length)
    actual = blake3(content).digest()
    if actual != piece.digest or len(content) != piece.length:
        raise DigestMismatch(
            _source(task, piece), f"blake3:{piece.digest.hex()}", f"blake3:{actual.hex()}"
        )
    return content
