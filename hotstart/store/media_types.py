"""Media types and annotation names of everything Hotstart stores.

A media type ends in the version of its format. ``+zstd`` means that the blob is one zstd frame
around the named bytes.
"""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"

IMAGE = "application/vnd.hotstart.image.v1"
"""Artifact type of image manifests."""
SNAPSHOT = "application/vnd.hotstart.snapshot.v1"
"""Artifact type of snapshot manifests."""

SNAPSHOT_CONFIG = "application/vnd.hotstart.snapshot.config.v2+json"
SNAPSHOT_CONFIG_V1 = "application/vnd.hotstart.snapshot.config.v1+json"
"""Not written any more, still read."""
BOOTSTRAP = "application/vnd.hotstart.bootstrap.v1+zstd"
CHUNK_TABLE = "application/vnd.hotstart.chunk-table.v1"
OBJECT_LIST = "application/vnd.hotstart.object-list.v1+json"
"""In the place of a chunk table: the objects of a bucket that a device is made of."""
PACK = "application/vnd.hotstart.pack.v1"
BUNDLE = "application/vnd.hotstart.bundle.v1"
BUNDLE_INDEX = "application/vnd.hotstart.bundle-index.v1"
TRACE = "application/vnd.hotstart.trace.v1"
RELOCATION = "application/vnd.hotstart.relocation.v1"
LAYERS = (BOOTSTRAP, CHUNK_TABLE, PACK, BUNDLE, BUNDLE_INDEX)
"""What a manifest's layers may be."""

RAW_SIZE = "vnd.hotstart.raw.size"
"""Bytes after decompression (bootstrap), decimal."""
RAW_DIGEST = "vnd.hotstart.raw.digest"
"""Digest after decompression (bootstrap)."""
DEVICE_NUMBER = "vnd.hotstart.device.number"
"""Position of a device in its manifest, from 0, decimal (chunk table)."""
DEVICE_SIZE = "vnd.hotstart.device.size"
"""Bytes of the device, decimal (chunk table)."""
HEAD_LENGTH = "vnd.hotstart.head.length"
"""Bytes of the head of a chunk table, decimal."""
HEAD_DIGEST = "vnd.hotstart.head.digest"
"""Digest of the head of a chunk table, so that it can be read alone."""
SIGNATURE = "vnd.hotstart.signature.ed25519"
"""Base64 of the Ed25519 signature (snapshot manifest)."""
SIGNATURE_KEY = "vnd.hotstart.signature.key"
"""Base64 of the public key that made the signature, 32 bytes (snapshot manifest)."""
