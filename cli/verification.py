"""Reads every object that a reference reaches and compares it with what names it.

Checked are: the reference and its manifest; every blob the manifest lists (digest and size); the
bootstrap after decompression; every chunk of every table, decompressed, against its BLAKE3; every
frame of a start bundle; the signature of a snapshot; the trace of an image, where one is recorded.
Packs are read whole, one after another, so memory holds one pack for each thread; of a pack that gc
has rewritten the new one is read, and the relocation that leads to it.

A wrong object does not end the check: all problems are listed. A store that does not answer does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from cli.stored import Stored, load
from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound
from hotstart.core.progress import Progress, ProgressSink
from hotstart.core.span import Span
from hotstart.store import media_types
from hotstart.store.blob_store import BlobNotFound, Content, StoreMissing
from hotstart.store.bundle import BundleIndex, Frame
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor, raw_digest, raw_size
from hotstart.store.manifest import ImageManifest, SnapshotManifest
from hotstart.store.packs import decode_verified
from hotstart.store.references import ReferenceName, ReferenceNotFound
from hotstart.store.relocating import find_relocation
from hotstart.store.relocation import Relocation
from hotstart.store.signing import PublicKey, verify
from hotstart.store.stack import Store
from hotstart.store.trace import Trace
from hotstart.store.zstd_frame import decompress

THREADS = 4
_TASK = "verify"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read, and what was wrong with it (empty: nothing)."""

    objects: int
    read_bytes: int
    chunks: int
    problems: tuple[str, ...]


class VerificationFailed(IntegrityError):
    """At least one object is not what it should be."""

    hint = "copy what is damaged from another store, or remove it and build it again"

    def __init__(self, name: ReferenceName | str, problems: Sequence[str]) -> None:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        super().__init__(f"{name}: {problems[0]}{more}")
        self.problems = tuple(problems)


class Verifier:
    """Checks one reference. ``trusted`` reads the keys, for a snapshot only; None: no signature."""

    def __init__(
        self,
        store: Store,
        trusted: Callable[[], Sequence[PublicKey]] | None,
        progress: ProgressSink,
    ) -> None:
        self._store = store
        self._trusted = trusted
        self._progress = progress
        self._lock = threading.Lock()
        self._tried: set[Digest] = set()
        self._seen: set[Digest] = set()
        self._problems: list[str] = []
        self._read_bytes = 0
        self._total_bytes = 0
        self._chunks = 0

    def check(self, name: ReferenceName) -> Verification:
        """Check everything. Raises ReferenceNotFound or Unavailable; else reports problems."""
        with self._noted(f"manifest of {name}"):
            stored = load(self._store, name)
            self._count(stored.reference.target)
            self._check_stored(stored)
        # What is missing was not read, and nothing more is to come.
        self._progress.update(Progress(_TASK, self._read_bytes, self._read_bytes, finished=True))
        problems = tuple(dict.fromkeys(self._problems))
        return Verification(len(self._seen), self._read_bytes, self._chunks, problems)

    def _check_stored(self, stored: Stored) -> None:
        manifest = stored.manifest
        self._total_bytes = self._read_bytes + sum(blob.size for blob in manifest.blobs())
        image = manifest
        if isinstance(manifest, SnapshotManifest):
            if self._trusted is not None:
                with self._noted("signature"):
                    verify(manifest, self._trusted())
            self._check_layers(manifest)
            self._check_bundle(manifest)
            image = manifest.image()
            with self._noted("manifest of the snapshot's image"):
                self._read(manifest.subject)
        if isinstance(image, ImageManifest):
            self._check_layers(image)
            self._check_trace(image)
        for blob in manifest.blobs():
            with self._noted(blob.media_type):
                self._read_once(blob)

    def _check_layers(self, manifest: ImageManifest | SnapshotManifest) -> None:
        with self._noted("bootstrap"):
            content = decompress(self._read(manifest.bootstrap), raw_size(manifest.bootstrap))
            raw_digest(manifest.bootstrap).check(content, "unpacked bootstrap")
        for device in manifest.devices:
            with self._noted("chunk table"):
                self._check_device(device)

    def _check_device(self, device: DeviceDescriptor) -> None:
        """Check a table, then its packs in parallel, each with the chunks that lie in it."""
        self._read(device.table)
        table = ChunkTable.open(self._store.blobs, device)
        of_pack: dict[int, list[Chunk]] = {number: [] for number in range(len(table.packs))}
        for chunk in table:
            of_pack[chunk.pack].append(chunk)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
            list(pool.map(lambda n: self._check_pack(device.packs[n], of_pack[n]), of_pack))

    def _check_pack(self, pack: Descriptor, chunks: Sequence[Chunk]) -> None:
        with self._noted("pack"):
            content, relocation = self._read_pack(pack)
            for chunk in chunks:
                with self._noted(f"chunk at {chunk.device_offset} in pack {pack.digest}"):
                    span = Span(chunk.pack_offset, chunk.stored_length)
                    place = span if relocation is None else relocation.translate(span)
                    if place is None:
                        raise IntegrityError("it was not kept when the pack was rewritten")
                    _check_stored_bytes(content, place.offset, chunk)
        with self._lock:
            self._chunks += len(chunks)

    def _read_pack(self, pack: Descriptor) -> tuple[memoryview, Relocation | None]:
        """Read a pack; if it was rewritten, what it lies in now, and where."""
        try:
            return memoryview(self._read(pack)), None
        except BlobNotFound as err:
            try:
                blobs, references = self._store.blobs, self._store.references
                relocation = find_relocation(blobs, references, pack.digest)
            except NotFound:
                raise err from None
        new = Descriptor(media_types.PACK, relocation.target, relocation.target_size)
        return memoryview(self._read(new)), relocation

    def _check_bundle(self, manifest: SnapshotManifest) -> None:
        if manifest.bundle is None or manifest.bundle_index is None:
            return
        with self._noted("start bundle"):
            content = memoryview(self._read(manifest.bundle))
            for frame in BundleIndex.decode(manifest.bundle_index.data or b"").frames:
                with self._noted(f"frame at {frame.offset} of the start bundle"):
                    _check_stored_bytes(content, frame.offset, frame)

    def _check_trace(self, image: ImageManifest) -> None:
        name = ReferenceName.trace_of(image.descriptor().digest)
        try:
            reference = self._store.references.get(name)
        except NotFound:
            return
        if reference.target.digest not in self._seen:
            self._total_bytes += reference.target.size
        with self._noted("trace"):
            Trace.decode(bytes(self._read(reference.target)))

    def _read_once(self, blob: Descriptor) -> None:
        if blob.digest not in self._tried:
            self._read(blob)

    def _read(self, blob: Descriptor) -> Content:
        """Read a whole blob, compare digest and size, and count it once."""
        with self._lock:
            self._tried.add(blob.digest)
        content = self._store.blobs.read(blob.digest)
        blob.digest.check(content, f"{self._store.url}: blob {blob.digest}")
        if len(content) != blob.size:
            raise IntegrityError(f"{len(content)} bytes, its descriptor says {blob.size}")
        self._count(blob)
        return content

    def _count(self, blob: Descriptor) -> None:
        with self._lock:
            if blob.digest in self._seen:
                return
            self._seen.add(blob.digest)
            self._read_bytes += blob.size
            done, total = self._read_bytes, self._total_bytes or None
        self._progress.update(Progress(_TASK, done, total))

    @contextmanager
    def _noted(self, where: str) -> Iterator[None]:
        """Turn a wrong or missing object into a line of the report."""
        try:
            yield
        except IntegrityError as err:
            self._note(f"{where}: {err}")
        except NotFound as err:
            if isinstance(err, ReferenceNotFound | StoreMissing):
                raise
            self._note(f"{where}: {err}")

    def _note(self, problem: str) -> None:
        with self._lock:
            self._problems.append(problem)


def _check_stored_bytes(blob: memoryview, offset: int, item: Chunk | Frame) -> None:
    """Unpack what lies at ``offset`` of a blob and compare its digest."""
    end = offset + item.stored_length
    if end > len(blob):
        raise IntegrityError(f"ends at {end}, beyond the blob's {len(blob)} bytes")
    decode_verified(
        blob[offset:end],
        raw=item.raw,
        length=item.length,
        digest=item.digest,
        source="stored bytes",
    )
