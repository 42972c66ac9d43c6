"""Opens the chunk table of a device from a store: small ones whole, large ones part by part.

Each part that a miss has to wait for costs a round trip, so a table of up to WHOLE_BYTES (some
gigabytes of device) is read by one request. Head and pages are verified in either case.
"""

from __future__ import annotations

from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content
from hotstart.store.chunk_table import ChunkTable
from lazyfs.spec import DeviceSpec

WHOLE_BYTES = 2 << 20


def open_table(blobs: BlobStore, spec: DeviceSpec) -> ChunkTable:
    """Return the device's table, its head verified. Raises what the store and the format raise."""
    digest = spec.table.digest

    def read_part(span: Span) -> Content:
        return blobs.read(digest, span)

    def read_whole(span: Span) -> Content:
        return content[span.offset : span.end]

    if spec.table.size <= WHOLE_BYTES:
        content = memoryview(blobs.read(digest, Span(0, spec.table.size)))
        # The device is called after these bytes, and shared with whoever calls it the same: a head
        # that only this manifest vouches for won't do.
        digest.check(content, "chunk table")
        read = read_whole
    else:
        read = read_part
    return ChunkTable(
        read, spec.table.size, head_length=spec.head_length, head_digest=spec.head_digest
    )
