"""What references, leases and young manifests reach: the blobs that a collector must keep.

Manifests are immutable, so what each of them lists is read once and remembered. A reference that
leads to something that cannot be read stops the collection: nobody knows what it would keep.
References of traces and relocations are weak: they live as long as their image or pack is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound, UserError
from hotstart.store import media_types
from hotstart.store.blob_store import StoredBlob
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatInvalid
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.manifest import Manifest, SnapshotManifest, read_manifest
from hotstart.store.references import (
    RELOCATION_PREFIX,
    TRACE_PREFIX,
    Reference,
    ReferenceName,
    ReferenceUnreadable,
)
from hotstart.store.relocating import read_relocation
from hotstart.store.relocation import Relocation
from hotstart.store.stack import Store

READERS = 16
PEEKED_BYTES = 8 << 20
"""Unreferenced blobs up to this size are looked at: they might be manifests."""


class CollectionStopped(IntegrityError):
    """A reference cannot be followed, so nothing may be removed."""

    def __init__(self, store_url: str, name: ReferenceName, reason: object) -> None:
        remedy = "repair it or remove it, then try again"
        if name.repository.startswith(RELOCATION_PREFIX):
            remedy = (
                "it tells where a rewritten pack lies: upgrade this program if a newer one wrote "
                "it, restore it from a copy of the store, or remove the images that need that pack"
            )
        super().__init__(
            f"{store_url}: nothing is collected, since reference {name} cannot be followed "
            f"({reason}); {remedy}"
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class Listing:
    """What a manifest needs: all of it, what of it not as a pack, and the devices it describes."""

    everything: frozenset[Digest]
    others: frozenset[Digest]
    devices: tuple[DeviceDescriptor, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Listing:
        """Take what a manifest lists, itself not."""
        blobs, devices = manifest.blobs(), manifest.devices
        others = {blob.digest for blob in blobs if blob.media_type != media_types.PACK}
        if isinstance(manifest, SnapshotManifest):
            others.add(manifest.subject.digest)
            devices += manifest.image().devices
        everything = others | {blob.digest for blob in blobs}
        return cls(frozenset(everything), frozenset(others), devices)


@dataclass(frozen=True, slots=True)
class Moved:
    """A pack that was rewritten: the reference that says so, and where its bytes are."""

    reference: Reference
    relocation: Relocation


class Reach:
    """Follows references and manifests of one store, and remembers manifests between passes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listed: dict[Digest, Listing] = {}
        self._no_manifest: set[Digest] = set()
        self._relocations: dict[tuple[Digest, Digest], Relocation] = {}
        self._unreadable: dict[tuple[ReferenceName, str], ReferenceUnreadable] = {}

    def references(self) -> list[Reference]:
        """Return every reference. Raises CollectionStopped, or what the store raises."""
        with ThreadPoolExecutor(READERS, "references") as readers:
            found = readers.map(self._reference, self._store.references.names())
            return [reference for reference in found if reference is not None]

    def of_references(self, references: Iterable[Reference]) -> set[Digest]:
        """Return what names reach; traces and relocations count with what they are of only.

        Raises CollectionStopped, or what the store raises.
        """
        reached: set[Digest] = set()
        weak = (TRACE_PREFIX, RELOCATION_PREFIX)
        strong = [item for item in references if not item.name.repository.startswith(weak)]
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
            with suppress(NotFound):
                reached |= self._peek(digest, self._size(digest))
        return reached

    def of_young(self, blobs: Iterable[StoredBlob]) -> set[Digest]:
        """Return what those of ``blobs`` that are manifests list; other blobs reach nothing."""
        small = [blob for blob in blobs if 0 < blob.size <= PEEKED_BYTES]
        reached: set[Digest] = set()
        with ThreadPoolExecutor(READERS, "young") as readers:
            for listed in readers.map(lambda blob: self._peek(blob.digest, blob.size), small):
                reached |= listed
        return reached

    def devices(self, live: set[Digest]) -> list[DeviceDescriptor]:
        """Return the devices of those of ``live`` that are manifests which were followed."""
        listings = [self._listed[digest] for digest in sorted(live & self._listed.keys())]
        return [device for listing in listings for device in listing.devices]

    def no_packs(self, references: Iterable[Reference], live: set[Digest]) -> set[Digest]:
        """Return what references and live manifests need otherwise than as a pack."""
        digests = {item.target.digest for item in references}
        for digest in live & self._listed.keys():
            digests |= self._listed[digest].others | {digest}
        return digests

    def moved(self, references: Iterable[Reference], packs: set[Digest]) -> dict[Digest, Moved]:
        """Return those of ``packs`` that were rewritten, and where they are now.

        Raises CollectionStopped, or what the store raises.
        """
        named = ((relocated_pack(item.name), item) for item in references)
        wanted = [(pack, item) for pack, item in named if pack is not None and pack in packs]
        with ThreadPoolExecutor(READERS, "relocations") as readers:
            found = readers.map(lambda item: self._relocation(*item), wanted)
            return {
                pack: Moved(reference, relocation)
                for (pack, reference), relocation in zip(wanted, found, strict=True)
            }

    def standing_in(self, references: Iterable[Reference], packs: set[Digest]) -> set[Digest]:
        """Return the blobs that stand in for those of ``packs`` that were rewritten."""
        blobs: set[Digest] = set()
        for item in self.moved(references, packs).values():
            blobs |= {item.reference.target.digest, item.relocation.target}
        return blobs

    def _relocation(self, pack: Digest, reference: Reference) -> Relocation:
        unreadable = self._unreadable.get((reference.name, reference.version))
        if unreadable is not None:
            raise CollectionStopped(self._store.url, reference.name, unreadable)
        key = pack, reference.target.digest
        if key not in self._relocations:
            try:
                relocation = read_relocation(self._store.blobs, reference.target, pack)
            except (NotFound, IntegrityError) as err:
                raise CollectionStopped(self._store.url, reference.name, err) from err
            self._relocations[key] = relocation
        return self._relocations[key]

    def _reference(self, name: ReferenceName) -> Reference | None:
        try:
            return self._store.references.get(name)
        except NotFound:
            return None
        except IntegrityError as err:
            pack = relocated_pack(name)
            if pack is None or not isinstance(err, ReferenceUnreadable):
                raise CollectionStopped(self._store.url, name, err) from err
            # It matters only while its pack is needed: _relocation stops then, else it goes.
            self._unreadable[name, err.version] = err
            return Reference(name, Descriptor(media_types.RELOCATION, pack, 0), err.version)

    def _follow(self, reference: Reference) -> frozenset[Digest]:
        target = reference.target
        if target.media_type != media_types.OCI_MANIFEST:
            raise CollectionStopped(
                self._store.url, reference.name, f"a {target.media_type[:80]!r} is not known here"
            )
        try:
            return self._list(target).everything | {target.digest}
        except (NotFound, IntegrityError) as err:
            now = self._reference(reference.name)
            if now is None:
                return frozenset()
            if now.version != reference.version:
                return self._follow(now)
            raise CollectionStopped(self._store.url, reference.name, err) from err

    def _list(self, target: Descriptor) -> Listing:
        """Return what a manifest lists. Raises NotFound or IntegrityError if it is none."""
        if target.digest not in self._listed:
            manifest = read_manifest(self._store.blobs, target)
            self._listed[target.digest] = Listing.of(manifest)
        return self._listed[target.digest]

    def _size(self, digest: Digest) -> int:
        """Return the size of a manifest that only its digest is known of; 0 if it was read."""
        is_known = digest in self._listed or digest in self._no_manifest
        return 0 if is_known else self._store.blobs.size(digest)

    def _peek(self, digest: Digest, size: int) -> frozenset[Digest]:
        """Return what a blob lists if it is a manifest that is there, else nothing."""
        if digest in self._no_manifest:
            return frozenset()
        try:
            return self._list(Descriptor(media_types.OCI_MANIFEST, digest, size)).everything
        except NotFound:
            return frozenset()
        except FormatInvalid:
            self._no_manifest.add(digest)
            return frozenset()


def orphaned(references: Iterable[Reference], live: set[Digest]) -> Iterator[Reference]:
    """Yield the references of traces and relocations whose image or pack nothing reaches."""
    for reference in references:
        of = trace_image(reference.name) or relocated_pack(reference.name)
        if of is not None and of not in live:
            yield reference


def traces_of(references: Iterable[Reference], images: set[Digest]) -> set[Digest]:
    """Return the traces recorded for these images."""
    return {item.target.digest for item in references if trace_image(item.name) in images}


def trace_image(name: ReferenceName) -> Digest | None:
    """Return the manifest whose trace a name stands for; None for any other name."""
    return _named_below(TRACE_PREFIX, name)


def relocated_pack(name: ReferenceName) -> Digest | None:
    """Return the pack whose relocation a name stands for; None for any other name."""
    pack = _named_below(RELOCATION_PREFIX, name)
    return pack if pack is not None and name == ReferenceName.relocation_of(pack) else None


def _named_below(prefix: str, name: ReferenceName) -> Digest | None:
    if not name.repository.startswith(prefix):
        return None
    try:
        return Digest(name.repository.removeprefix(prefix))
    except UserError:
        return None
