"""A snapshot as a restore needs it: read from a store, verified, understood.

Nothing of a snapshot is used before its manifest is known to be signed by a key that this node
trusts (or the caller trusts unsigned ones): it is code that root will run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from hotstart.core.errors import NotFound, UserError
from hotstart.store.blob_store import BlobNotFound
from hotstart.store.bundle import BundleIndex
from hotstart.store.manifest import (
    ImageManifest,
    ManifestInvalid,
    SnapshotManifest,
    read_manifest,
)
from hotstart.store.page_runs import Run
from hotstart.store.references import ReferenceName
from hotstart.store.signing import PublicKey, SignatureForeign, SignatureMissing, verify
from hotstart.store.snapshot_config import SnapshotConfig
from hotstart.store.stack import Store
from lazyfs.device_handles import device_set_name
from lazyfs.plans import BundlePlan, TracePlan
from lazyfs.spec import MountSpec
from runtime.image_access import CachePaths
from runtime.snapshot_files import DUMP
from snapshotter.session_spec import MemoryFileSpec


class NotASnapshot(UserError):
    """The reference names an image."""


class MemoryTooSmall(UserError):
    """The restored processes would not fit below the memory limit that is asked for."""

    def __init__(self, reference: str, needed_bytes: int, limit_bytes: int) -> None:
        needed_mib = -(-needed_bytes >> 20)
        super().__init__(
            f"{reference}: its processes need {needed_mib} MiB of memory, "
            f"the limit that is asked for is {limit_bytes >> 20} MiB",
            f"give --memory {needed_mib}m or more, or none",
        )
        self.needed_bytes = needed_bytes
        self.limit_bytes = limit_bytes


class ImageMissing(NotFound):
    """The image that a snapshot was taken of is not in the store any more."""


@dataclass(frozen=True)
class LoadedSnapshot:
    """A verified manifest and what is inline in it; ``store_url`` is where its blobs are.

    ``vouched``: a key that this node trusts has signed it. What costs milliseconds to derive
    (digests of manifests) is derived once.
    """

    reference: str
    store_url: str
    manifest: SnapshotManifest
    config: SnapshotConfig
    index: BundleIndex | None
    vouched: bool = False

    @cached_property
    def image(self) -> ImageManifest:
        """The image's manifest."""
        return self.manifest.image()

    def mount_spec(self) -> MountSpec:
        """What to mount for the snapshot's own files."""
        return self._mount_spec

    def image_spec(self) -> MountSpec:
        """What to mount for the image's."""
        return self._image_spec

    @cached_property
    def _mount_spec(self) -> MountSpec:
        return MountSpec.of(self.manifest, self.store_url, is_vouched=self.vouched)

    @cached_property
    def _image_spec(self) -> MountSpec:
        return MountSpec.of(self.image, self.store_url, is_vouched=self.vouched)

    @property
    def memory_order(self) -> Sequence[Run]:
        """The working set: runs in the memory files."""
        return self.index.memory_order if self.index is not None else ()

    @property
    def needed_bytes(self) -> int:
        """Memory that the processes may take; those frozen below a limit fitted below it."""
        dumped_bytes = sum(file.size_bytes for file in self.config.memory_files)
        limit_bytes = self.config.memory_bytes
        return dumped_bytes if limit_bytes is None else min(dumped_bytes, limit_bytes)

    def bundle_plan(self) -> BundlePlan | TracePlan | None:
        """How to fetch what the start bundle holds, if there is one.

        A frame is part of chunks, so it is held to its digest in the index, never to the chunk
        table, while its pages go into devices that other containers read too. Without a trusted
        signature the same pages are fetched as chunks, each held to its device's own chunk table.
        """
        if self.index is None or self.manifest.bundle is None:
            return None
        if not self.vouched:
            return TracePlan(self.index.as_trace())
        return BundlePlan(self.manifest.bundle.digest, self.index, self.store_url)

    def memory_files(self, mounted_dump: str, cache: CachePaths) -> tuple[MemoryFileSpec, ...]:
        """Return where the page worker finds the memory: mounted, and in the local device."""
        device = self.manifest.devices[0]
        return tuple(
            MemoryFileSpec(
                path=f"{mounted_dump}/{file.path.removeprefix(DUMP + '/')}",
                size_bytes=file.size_bytes,
                device_path=str(cache.device_path(device.device_id)),
                device_id=device.device_id,
                device_offset=file.device_offset,
                device_bytes=device.size_bytes,
                ready_path=str(cache.ready_path(device.device_id)),
                # The descriptor that was opened before the device was marked.
                keeper_set=device_set_name(device.device_id),
                keeper_index=0,
            )
            for file in self.config.memory_files
        )


def load_snapshot(
    store: Store, reference: str, *, trusted: Sequence[PublicKey], trust_unsigned: bool = False
) -> LoadedSnapshot:
    """Read, verify and understand a snapshot.

    Raises what the store raises, NotASnapshot, SignatureMissing or SignatureForeign, and what the
    formats raise for bytes that are no snapshot.
    """
    target = store.references.get(ReferenceName.parse(reference)).target
    manifest = read_manifest(store.blobs, target)
    if not isinstance(manifest, SnapshotManifest):
        raise NotASnapshot(f"{reference} is an image, not a snapshot", "use hotstart run")
    vouched = True
    try:
        verify(manifest, trusted)
    except (SignatureMissing, SignatureForeign):
        # A manifest that was changed after it was signed is refused whatever the caller trusts.
        if not trust_unsigned:
            raise
        vouched = False
    return understand(manifest, reference, store.url, vouched=vouched)


def understand(
    manifest: SnapshotManifest, reference: str, store_url: str, *, vouched: bool = False
) -> LoadedSnapshot:
    """Parse what a manifest carries inline. Raises what the formats raise."""
    config = SnapshotConfig.parse(manifest.config.data or b"")
    inline = manifest.bundle_index.data if manifest.bundle_index is not None else None
    index = _decoded(inline) if inline is not None else None
    if index is not None:
        check_devices(manifest, index)
    return LoadedSnapshot(reference, store_url, manifest, config, index, vouched)


def check_devices(manifest: SnapshotManifest, index: BundleIndex) -> None:
    """Raise ManifestInvalid if the start bundle would fill a device of anybody else's.

    Whose device it is, the manifest says itself: see ``bundle_plan`` for what that is worth.
    """
    own = {device.device_id for device in (*manifest.devices, *manifest.image().devices)}
    foreign = sorted(set(index.device_ids) - own)
    if foreign:
        raise ManifestInvalid(f"its start bundle fills device {foreign[0][:12]} of another image")


@lru_cache(maxsize=16)
def _decoded(inline: bytes) -> BundleIndex:
    """Decode an index; restores of one snapshot follow each other, and it takes milliseconds."""
    return BundleIndex.decode(inline)


def require_memory(snapshot: LoadedSnapshot, limit_bytes: int | None) -> None:
    """Raise MemoryTooSmall if the processes need more than ``limit_bytes`` (None: no limit)."""
    if limit_bytes is not None and limit_bytes < snapshot.needed_bytes:
        raise MemoryTooSmall(snapshot.reference, snapshot.needed_bytes, limit_bytes)


def require_image(store: Store, snapshot: LoadedSnapshot) -> None:
    """Raise ImageMissing unless the image's bootstrap is still in the store."""
    try:
        store.blobs.size(snapshot.image.bootstrap.digest)
    except BlobNotFound as err:
        raise ImageMissing(
            f"{snapshot.reference}: its image {snapshot.config.image_reference} is missing",
            "build or copy the image again; its digest must be the same",
        ) from err
