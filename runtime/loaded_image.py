"""An image as a start needs it: its manifest, the OCI config of what it runs, and its store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, UserError
from hotstart.store.manifest import ImageManifest, read_manifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import Store
from lazyfs.spec import MountSpec


class NotAnImage(UserError):
    """The reference names a snapshot."""


class ImageConfigInvalid(IntegrityError):
    """The image's config is no OCI image configuration."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """A verified manifest and config; ``store_url`` is where the image's blobs are."""

    reference: str
    store_url: str
    manifest: ImageManifest
    config: Mapping[str, Any]

    @property
    def digest(self) -> Digest:
        """What names the image for ever."""
        return self.manifest.descriptor().digest

    def mount_spec(self) -> MountSpec:
        """What to mount."""
        return MountSpec.of(self.manifest, self.store_url)


def load_image(store: Store, reference: str) -> LoadedImage:
    """Read and understand an image. Raises what the store and the formats raise, NotAnImage."""
    target = store.references.get(ReferenceName.parse(reference)).target
    manifest = read_manifest(store.blobs, target)
    if not isinstance(manifest, ImageManifest):
        raise NotAnImage(f"{reference} is a snapshot, not an image", "use hotstart restore")
    return image_of(store, reference, manifest)


def image_of(store: Store, reference: str, manifest: ImageManifest) -> LoadedImage:
    """Read the config of a manifest that is known already. Raises ImageConfigInvalid."""
    inline = manifest.config.data
    content = inline if inline is not None else bytes(store.blobs.read(manifest.config.digest))
    try:
        config = json.loads(content)
    except ValueError as err:
        raise ImageConfigInvalid(f"{reference}: the image's config is not JSON: {err}") from err
    if not isinstance(config, dict) or not isinstance(config.get("config") or {}, dict):
        raise ImageConfigInvalid(f"{reference}: the image's config is not an object")
    return LoadedImage(reference, store.url, manifest, config)
