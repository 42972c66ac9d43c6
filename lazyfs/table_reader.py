"""Opens the chunk table of a device from a store: its head now, its pages when they are needed."""

from __future__ import annotations

from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore
from hotstart.store.chunk_table import ChunkTable
from lazyfs.spec import DeviceSpec


def open_table(blobs: BlobStore, spec: DeviceSpec) -> ChunkTable:
    """Return the device's table, its head verified. Raises what the store and the format raise."""
    digest = spec.table.digest

    def read(span: Span) -> bytes:
        return bytes(blobs.read(digest, span))

    return ChunkTable(
        read, spec.table.size, head_length=spec.head_length, head_digest=spec.head_digest
    )
