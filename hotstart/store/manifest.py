"""Manifests: the small canonical documents that list everything an image or snapshot is made of.

Both are OCI image manifests with our media types, so that OCI tools can copy them. ``layers`` is,
in this order: the bootstrap; per device its chunk table and then every pack that the table names,
borrowed ones too (else copiers and collectors lose them); in snapshots also the start bundle and
its index. Values here are immutable; bytes are canonical JSON, so equal values have equal digests.

A snapshot's ``config``, ``bundle_index`` and ``subject`` carry their content inline: one read of
the manifest is enough to begin a restore. The signature is two annotations (see signing.py).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hotstart.core import canonical_json
from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store import media_types
from hotstart.store.blob_store import BlobStore, SpanOutside
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import check_media_type, check_version
from hotstart.store.json_document import Fields, JsonValue, parse_object
from hotstart.store.layers import (
    DeviceDescriptor,
    LayerReader,
    ManifestInvalid,
    check_bootstrap,
    device_layers,
)

__all__ = [
    "DeviceDescriptor",
    "ImageManifest",
    "Manifest",
    "ManifestInvalid",
    "Signature",
    "SnapshotManifest",
    "parse_manifest",
    "read_manifest",
]

SCHEMA_VERSION = 2
MAX_BYTES = 64 << 20
"""No manifest is larger; ``read_manifest`` refuses a bigger one before it is read."""

_SIGNATURE_KEYS = (media_types.SIGNATURE, media_types.SIGNATURE_KEY)


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature and the public key that made it, both raw bytes."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image: its OCI config, its bootstrap, and its devices by number."""

    config: Descriptor
    bootstrap: Descriptor
    devices: tuple[DeviceDescriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        layers = [self.bootstrap, *device_layers(self.devices)]
        return _encode(media_types.IMAGE, self.config, layers, self.annotations, None)

    def descriptor(self, *, inline: bool = False) -> Descriptor:
        """Describe the canonical bytes; with ``inline`` carry them too (for ``subject``)."""
        return Descriptor.of(media_types.OCI_MANIFEST, self.to_bytes(), inline=inline)

    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob the image needs, config first, each once."""
        return _once([self.config, self.bootstrap, *device_layers(self.devices)])

    @classmethod
    def parse(cls, content: bytes) -> ImageManifest:
        """Read canonical bytes. Raises ManifestInvalid or FormatVersionUnknown."""
        manifest = parse_manifest(content)
        if not isinstance(manifest, ImageManifest):
            raise ManifestInvalid("this is a snapshot, expected an image")
        return manifest


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """One snapshot: how to run it, its files as an image, its start bundle, and its image.

    ``config`` (a SnapshotConfig), ``bundle_index`` and ``subject`` (the image's manifest) carry
    their bytes in ``data``. ``bundle`` and ``bundle_index`` are both there or both None.
    """

    config: Descriptor
    bootstrap: Descriptor
    devices: tuple[DeviceDescriptor, ...]
    bundle: Descriptor | None
    bundle_index: Descriptor | None
    subject: Descriptor
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    signature: Signature | None = None

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, signature included."""
        annotations = dict(self.annotations)
        if self.signature is not None:
            annotations[media_types.SIGNATURE] = _base64(self.signature.value)
            annotations[media_types.SIGNATURE_KEY] = _base64(self.signature.key)
        layers = self._layers()
        return _encode(media_types.SNAPSHOT, self.config, layers, annotations, self.subject)

    def signed_bytes(self) -> bytes:
        """Return what a signature covers: the canonical bytes without the two annotations."""
        return replace(self, signature=None).to_bytes()

    def descriptor(self) -> Descriptor:
        """Describe the canonical bytes."""
        return Descriptor.of(media_types.OCI_MANIFEST, self.to_bytes())

    def image(self) -> ImageManifest:
        """Return the manifest of the image that the snapshot was taken of."""
        return ImageManifest.parse(self.subject.data or b"")

    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob that snapshot and image need, the image's manifest included, each once."""
        own = [self.config, *self._layers(), self.subject]
        return _once([*own, *self.image().blobs()])

    def _layers(self) -> list[Descriptor]:
        start = [item for item in (self.bundle, self.bundle_index) if item is not None]
        return [self.bootstrap, *device_layers(self.devices), *start]

    @classmethod
    def parse(cls, content: bytes) -> SnapshotManifest:
        """Read canonical bytes. Raises ManifestInvalid or FormatVersionUnknown."""
        manifest = parse_manifest(content)
        if not isinstance(manifest, SnapshotManifest):
            raise ManifestInvalid("this is an image, expected a snapshot")
        return manifest


Manifest = ImageManifest | SnapshotManifest


def parse_manifest(content: bytes) -> Manifest:
    """Read the manifest of an image or a snapshot, whichever it says it is.

    Raises ManifestInvalid for anything that is not the canonical bytes of one, and
    FormatVersionUnknown for a schema or artifact type of another version.
    """
    if len(content) > MAX_BYTES:
        raise ManifestInvalid(f"{len(content)} bytes, at most {MAX_BYTES} are allowed")
    manifest = _parse(content)
    # Two spellings of one value would be two digests and one signature.
    if manifest.to_bytes() != content:
        raise ManifestInvalid(
            "not in its canonical spelling; changed or written by another program: copy it anew"
        )
    return manifest


def read_manifest(blobs: BlobStore, target: Descriptor) -> Manifest:
    """Read the manifest that a reference points to, and never more bytes than the reference says.

    References are not signed, and may point to a blob of any size. Raises ManifestInvalid,
    DigestMismatch, and what the store and ``parse_manifest`` raise.
    """
    if target.size > MAX_BYTES:
        raise ManifestInvalid(f"{target.size} bytes, at most {MAX_BYTES} are allowed")
    try:
        content = _read(blobs, target)
        if Digest.of(content) != target.digest:  # a byte may have been flipped on its way
            content = _read(blobs, target)
    except SpanOutside as err:
        raise ManifestInvalid(f"its reference says {target.size} bytes, it has fewer") from err
    target.digest.check(content, f"{blobs.url}: manifest of {target.size} bytes")
    return parse_manifest(content)


def _read(blobs: BlobStore, target: Descriptor) -> bytes:
    return bytes(blobs.read(target.digest, Span(0, target.size)))


def _parse(content: bytes) -> Manifest:
    # A later version may spell otherwise, and is to be named as one: the spelling is compared last.
    fields = parse_object(content, ManifestInvalid, canonical=False)
    check_version("manifest", fields.take("schemaVersion"), (SCHEMA_VERSION,))
    if fields.text("mediaType") != media_types.OCI_MANIFEST:
        raise fields.wrong("mediaType", f"is not {media_types.OCI_MANIFEST}")
    artifact = fields.text("artifactType")
    if artifact == media_types.IMAGE:
        return _parse_image(fields)
    if artifact == media_types.SNAPSHOT:
        return _parse_snapshot(fields)
    check_media_type(artifact, (media_types.IMAGE, media_types.SNAPSHOT))
    raise fields.wrong("artifactType", f"is {artifact[:100]!r}: neither an image nor a snapshot")


def _parse_image(fields: Fields) -> ImageManifest:
    config = _config(fields, (media_types.OCI_CONFIG,))
    layers = LayerReader(fields)
    annotations = _annotations(fields)
    fields.finish()
    bootstrap, devices = layers.bootstrap(), layers.devices()
    layers.finish()
    return ImageManifest(config, bootstrap, devices, annotations)


def _parse_snapshot(fields: Fields) -> SnapshotManifest:
    config = _config(fields, (media_types.SNAPSHOT_CONFIG, media_types.SNAPSHOT_CONFIG_V1))
    layers = LayerReader(fields)
    subject = Descriptor.from_json(fields.fields("subject"), ManifestInvalid)
    annotations = _annotations(fields)
    fields.finish()
    bootstrap, devices = layers.bootstrap(), layers.devices()
    bundle = layers.optional(media_types.BUNDLE)
    index = layers.optional(media_types.BUNDLE_INDEX)
    layers.finish()
    if (bundle is None) != (index is None):
        raise ManifestInvalid("a start bundle needs its index, and an index its bundle")
    for what, item in (("config", config), ("bundle index", index), ("subject", subject)):
        if item is not None and item.data is None:
            raise ManifestInvalid(f"the {what} is not inline")
    ImageManifest.parse(subject.data or b"")
    signature = _take_signature(annotations)
    return SnapshotManifest(
        config, bootstrap, devices, bundle, index, subject, annotations, signature
    )


def _config(fields: Fields, media_types_: tuple[str, ...]) -> Descriptor:
    config = Descriptor.from_json(fields.fields("config"), ManifestInvalid)
    check_media_type(config.media_type, media_types_)
    if config.media_type not in media_types_:
        raise ManifestInvalid(
            f"config is {config.media_type[:100]!r}, expected {' or '.join(media_types_)}"
        )
    return config


def _annotations(fields: Fields) -> dict[str, str]:
    return fields.text_mapping("annotations") if fields.has("annotations") else {}


def _take_signature(annotations: dict[str, str]) -> Signature | None:
    """Move the two signature annotations out of ``annotations``."""
    texts = [annotations.pop(key, None) for key in _SIGNATURE_KEYS]
    if texts == [None, None]:
        return None
    try:
        value, key = (base64.b64decode(text or "", validate=True) for text in texts)
    except (binascii.Error, ValueError) as err:
        raise ManifestInvalid("the signature is not base64") from err
    if len(value) != 64 or len(key) != 32:
        raise ManifestInvalid("the signature is not 64 bytes with a key of 32 bytes")
    if [_base64(value), _base64(key)] != texts:
        raise ManifestInvalid("the signature is not in its canonical spelling")
    return Signature(key, value)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _encode(
    artifact: str,
    config: Descriptor,
    layers: list[Descriptor],
    annotations: Mapping[str, str],
    subject: Descriptor | None,
) -> bytes:
    check_bootstrap(layers[0])
    value: dict[str, JsonValue] = {
        "schemaVersion": SCHEMA_VERSION,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": artifact,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if annotations:
        value["annotations"] = dict(annotations)
    if subject is not None:
        value["subject"] = subject.to_json()
    return canonical_json.encode(value)


def _once(descriptors: list[Descriptor]) -> tuple[Descriptor, ...]:
    seen: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        seen.setdefault(descriptor.digest, descriptor)
    return tuple(seen.values())
