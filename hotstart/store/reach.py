"""What references, leases and young manifests reach: the blobs that a collector must keep.

Manifests are immutable, so what each of them lists is read once and remembered. A reference that
leads to something that cannot be read stops the collection: nobody knows what it would keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound, UserError
from hotstart.store import media_types
from hotstart.store.blob_store import StoredBlob
from hotstart.store.format_errors import FormatInvalid
from hotstart.store.manifest import Manifest, SnapshotManifest, parse_manifest
from hotstart.store.references import TRACE_PREFIX, Reference, ReferenceName
from hotstart.store.stack import Store

READERS = 16
PEEKED_BYTES = 8 << 20
"""Unreferenced blobs up to this size are looked at: they might be manifests."""


class CollectionStopped(IntegrityError):
    """A reference cannot be followed, so nothing may be removed."""

    def __init__(self, store_url: str, name: ReferenceName, reason: object) -> None:
        super().__init__(
            f"{store_url}: nothing is collected, since reference {name} cannot be followed "
            f"({reason}); repair it or remove it, then try again"
        )
        self.name = name


def listed_by(manifest: Manifest) -> frozenset[Digest]:
    """Return the digests of everything that a manifest needs."""
    listed = {descriptor.digest for descriptor in manifest.blobs()}
    if isinstance(manifest, SnapshotManifest):
        listed.add(manifest.subject.digest)
    return frozenset(listed)


class Reach:
    """Follows references and manifests of one store, and remembers manifests between passes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listed: dict[Digest, frozenset[Digest]] = {}
        self._no_manifest: set[Digest] = set()

    def references(self) -> list[Reference]:
        """Return every reference. Raises CollectionStopped, or what the store raises."""
        with ThreadPoolExecutor(READERS, "references") as readers:
            found = readers.map(self._reference, self._store.references.names())
            return [reference for reference in found if reference is not None]

    def of_references(self, references: Iterable[Reference]) -> set[Digest]:
        """Return what names reach; traces count only where their image does not depend on them.

        Raises CollectionStopped, or what the store raises.
        """
        reached: set[Digest] = set()
        strong = [item for item in references if not item.name.repository.startswith(TRACE_PREFIX)]
        with ThreadPoolExecutor(READERS, "manifests") as readers:
            for digests in readers.map(self._follow, strong):
                reached |= digests
        return reached

    def of_manifests(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return what these manifests list and themselves, as far as they are there.

        Raises what the store raises.
        """
        reached: set[Digest] = set()
        for digest in digests:
            reached.add(digest)
            reached |= self._peek(digest)
        return reached

    def of_young(self, blobs: Iterable[StoredBlob]) -> set[Digest]:
        """Return what those of ``blobs`` that are manifests list; other blobs reach nothing."""
        small = [blob.digest for blob in blobs if blob.size <= PEEKED_BYTES]
        reached: set[Digest] = set()
        with ThreadPoolExecutor(READERS, "young") as readers:
            for listed in readers.map(self._peek, small):
                reached |= listed
        return reached

    def _reference(self, name: ReferenceName) -> Reference | None:
        try:
            return self._store.references.get(name)
        except NotFound:
            return None
        except IntegrityError as err:
            raise CollectionStopped(self._store.url, name, err) from err

    def _follow(self, reference: Reference) -> frozenset[Digest]:
        target = reference.target
        if target.media_type != media_types.OCI_MANIFEST:
            raise CollectionStopped(
                self._store.url, reference.name, f"a {target.media_type[:80]!r} is not known here"
            )
        try:
            return self._list(target.digest) | {target.digest}
        except (NotFound, IntegrityError) as err:
            now = self._reference(reference.name)
            if now is None:
                return frozenset()
            if now.version != reference.version:
                return self._follow(now)
            raise CollectionStopped(self._store.url, reference.name, err) from err

    def _list(self, digest: Digest) -> frozenset[Digest]:
        """Return what a manifest lists. Raises NotFound or IntegrityError if it is none."""
        if digest not in self._listed:
            content = bytes(self._store.blobs.read(digest))
            self._listed[digest] = listed_by(parse_manifest(content))
        return self._listed[digest]

    def _peek(self, digest: Digest) -> frozenset[Digest]:
        """Return what a blob lists if it is a manifest that is there, else nothing."""
        if digest in self._no_manifest:
            return frozenset()
        try:
            return self._list(digest)
        except NotFound:
            return frozenset()
        except FormatInvalid:
            self._no_manifest.add(digest)
            return frozenset()


def orphaned_traces(references: Iterable[Reference], reached: set[Digest]) -> Iterator[Reference]:
    """Yield the references of traces whose image nothing reaches."""
    for reference in references:
        image = trace_image(reference.name)
        if image is not None and image not in reached:
            yield reference


def traces_of(references: Iterable[Reference], images: set[Digest]) -> set[Digest]:
    """Return the traces recorded for these images."""
    return {item.target.digest for item in references if trace_image(item.name) in images}


def trace_image(name: ReferenceName) -> Digest | None:
    """Return the manifest whose trace a name stands for; None for any other name."""
    if not name.repository.startswith(TRACE_PREFIX):
        return None
    try:
        return Digest(name.repository.removeprefix(TRACE_PREFIX))
    except UserError:
        return None
