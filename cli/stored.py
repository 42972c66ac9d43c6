"""What a reference of the store leads to: its manifest, parsed. For commands without an agent."""

from __future__ import annotations

from dataclasses import dataclass

from hotstart.store.manifest import Manifest, SnapshotManifest, read_manifest
from hotstart.store.references import Reference, ReferenceName
from hotstart.store.stack import Store


@dataclass(frozen=True, slots=True)
class Stored:
    """A reference and the manifest it points to."""

    reference: Reference
    manifest: Manifest

    @property
    def kind(self) -> str:
        """``image`` or ``snapshot``."""
        return "snapshot" if isinstance(self.manifest, SnapshotManifest) else "image"

    @property
    def size_bytes(self) -> int:
        """Bytes of all devices: what the image's files take when all is local."""
        return sum(device.size_bytes for device in self.manifest.devices)


def load(store: Store, name: ReferenceName) -> Stored:
    """Read a reference and its manifest, verified by digest.

    Raises ReferenceNotFound, BlobNotFound, or an IntegrityError for bytes that are not what they
    are said to be.
    """
    reference = store.references.get(name)
    return Stored(reference, read_manifest(store.blobs, reference.target))
