"""A wrapper that finds the bytes of packs that a collector has rewritten.

A span of a blob that is not there is looked for where its relocation says (relocation.py); what was
found is remembered. Everything else is as it is below: ``has``, ``size`` and whole reads speak of
the blob itself, so that whoever puts a pack learns whether it is really there.

A rewritten pack may be rewritten again, or put again whole, while it is read; so what a relocation
leads to and does not find is looked up anew, and the pack itself once more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.errors import NotFound
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store import media_types
from hotstart.store.blob_store import BlobNotFound, BlobStore, Content
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.descriptor import Descriptor
from hotstart.store.passing import PassingBlobs
from hotstart.store.references import ReferenceName, ReferenceStore
from hotstart.store.relocation import MAX_BYTES, MAX_RUNS, Relocation, RelocationInvalid

log = get_logger(__name__)

_LOOKS = 3
"""How often a pack may be rewritten while one span of it is read."""
KEPT_RUNS = MAX_RUNS
"""Runs of relocations kept in memory, about 200 bytes each."""


class RelocatingBlobs(PassingBlobs):
    """Reads spans of rewritten packs where they lie now. Thread-safe."""

    def __init__(self, inner: BlobStore, references: ReferenceStore) -> None:
        super().__init__(inner)
        self._references = references
        self._lock = threading.Lock()
        self._kept: OrderedDict[Digest, Relocation] = OrderedDict()
        self._kept_runs = 0

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes; spans also of a pack that was rewritten.

        Raises RelocationInvalid or DigestMismatch too.
        """
        if span is None:
            return self._inner.read(digest)
        place = self._known_place(digest, span)
        if place is not None:
            try:
                return self._inner.read(*place)
            except BlobNotFound:
                self._forget(digest)
        try:
            return self._inner.read(digest, span)
        except BlobNotFound:
            return self._read_moved(digest, span)

    def _read_moved(self, digest: Digest, span: Span) -> Content:
        for _look in range(_LOOKS):
            try:
                relocation = find_relocation(self._inner, self._references, digest)
            except NotFound:
                break
            place = relocation.translate(span)
            if place is None:
                break
            with suppress(BlobNotFound):
                content = self._inner.read(relocation.target, place)
                self._keep(relocation)
                return content
        # Put again by now, whole, or it is gone.
        return self._inner.read(digest, span)

    def _known_place(self, digest: Digest, span: Span) -> tuple[Digest, Span] | None:
        with self._lock:
            relocation = self._kept.get(digest)
            if relocation is None:
                return None
            self._kept.move_to_end(digest)
        place = relocation.translate(span)
        return None if place is None else (relocation.target, place)

    def _keep(self, relocation: Relocation) -> None:
        with self._lock:
            self._drop(relocation.source)
            self._kept[relocation.source] = relocation
            self._kept_runs += len(relocation.runs)
            while self._kept_runs > KEPT_RUNS and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def _forget(self, digest: Digest) -> None:
        with self._lock:
            self._drop(digest)

    def _drop(self, digest: Digest) -> None:
        """Under the lock."""
        dropped = self._kept.pop(digest, None)
        if dropped is not None:
            self._kept_runs -= len(dropped.runs)


def find_relocation(blobs: BlobStore, references: ReferenceStore, pack: Digest) -> Relocation:
    """Return where a pack's bytes lie now.

    Raises ReferenceNotFound if it was not rewritten, BlobNotFound if that is lost,
    RelocationInvalid, FormatVersionUnknown, DigestMismatch, or what the store raises.
    """
    name = ReferenceName.relocation_of(pack)
    for _look in range(_LOOKS - 1):
        with suppress(BlobNotFound):  # the pack was rewritten again between the two requests
            return read_relocation(blobs, references.get(name).target, pack)
    return read_relocation(blobs, references.get(name).target, pack)


def read_relocation(blobs: BlobStore, target: Descriptor, pack: Digest) -> Relocation:
    """Return the relocation of ``pack`` that is stored as ``target``. Raises as find_relocation."""
    if target.media_type != media_types.RELOCATION or target.size > MAX_BYTES:
        raise RelocationInvalid(f"{target.size} bytes of {target.media_type[:100]!r} are none")
    content = _read_checked(blobs, target)
    relocation = Relocation.decode(content)
    if relocation.source != pack:
        raise RelocationInvalid(f"is of pack {relocation.source}, expected {pack}")
    return relocation


def _read_checked(blobs: BlobStore, target: Descriptor) -> bytes:
    """Read no more than ``target`` says there is; once more if it comes wrong."""
    span, source = Span(0, target.size), f"{blobs.url}: relocation"
    content = bytes(blobs.read(target.digest, span))
    try:
        target.digest.check(content, source)
    except DigestMismatch as err:
        log.warning("blob_mismatch", error=err, action="reading it once more")
        content = bytes(blobs.read(target.digest, span))
        target.digest.check(content, source)
    return content


def not_kept(
    blobs: BlobStore,
    references: ReferenceStore,
    missing: Sequence[Descriptor],
    needed: Sequence[Descriptor],
) -> list[Descriptor]:
    """Return those of ``missing`` that are lost to someone who needs the blobs ``needed``.

    A pack is not lost if its rewriting has kept every chunk that the tables among ``needed`` list.
    Raises what the store and the tables raise.
    """
    moved: dict[Digest, Relocation] = {}
    lost: list[Descriptor] = []
    for blob in missing:
        is_pack = blob.media_type == media_types.PACK
        relocation = _present_relocation(blobs, references, blob.digest) if is_pack else None
        if relocation is not None:
            moved[blob.digest] = relocation
        elif not blobs.has(blob.digest):  # a pack may have been put again since
            lost.append(blob)
    if lost:
        return lost
    incomplete: set[Digest] = set()
    for blob in needed:
        if blob.media_type == media_types.CHUNK_TABLE:
            table = ChunkTable.of_bytes(blobs.read(blob.digest))
            incomplete |= _incomplete(table, moved)
    return [blob for blob in missing if blob.digest in incomplete]


def _present_relocation(
    blobs: BlobStore, references: ReferenceStore, pack: Digest
) -> Relocation | None:
    """Return a pack's relocation whose new pack is there, or None."""
    for _look in range(_LOOKS):
        try:
            relocation = find_relocation(blobs, references, pack)
        except NotFound:
            return None
        if blobs.has(relocation.target):
            return relocation
    return None


def _incomplete(table: ChunkTable, moved: dict[Digest, Relocation]) -> set[Digest]:
    """Return the packs of which a chunk of the table was not kept."""
    relocations = [moved.get(pack) for pack in table.packs]
    if not any(relocations):
        return set()
    return {
        relocation.source
        for chunk in table
        if (relocation := relocations[chunk.pack]) is not None
        and relocation.translate(Span(chunk.pack_offset, chunk.stored_length)) is None
    }
