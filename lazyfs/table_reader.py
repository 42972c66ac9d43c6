"""Opens the chunk table of a device from a store: small ones whole, large ones part by part.

A device is shared by every image that calls it by the digest of its table, so a table is held to
that digest, whatever else a manifest says. Each part that a miss has to wait for costs a round
trip: a table of up to WHOLE_BYTES (some gigabytes of device) is read by one request. A larger one
is read through once, and what its head was then is kept in a small file beside the ready map; later
its head is held to that, its pages to the head.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from hotstart.core.digest import DigestMismatch
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content
from hotstart.store.chunk_table import ChunkTable, ChunkTableInvalid
from lazyfs.spec import DeviceSpec

WHOLE_BYTES = 2 << 20
PART_BYTES = 4 << 20
"""What is read of a large table at once."""


def open_table(blobs: BlobStore, spec: DeviceSpec, verified_head: Path) -> ChunkTable:
    """Return the device's table, its head verified; each page is when it is read.

    ``verified_head`` is written once a large table has had its digest. Raises IntegrityError, what
    the store raises.
    """
    digest = spec.table.digest

    def read_part(span: Span) -> Content:
        return blobs.read(digest, span)

    def read_whole(span: Span) -> Content:
        return content[span.offset : span.end]

    if spec.table.size <= WHOLE_BYTES:
        content = memoryview(blobs.read(digest, Span(0, spec.table.size)))
        digest.check(content, "chunk table")
        read = read_whole
    else:
        if not _is_verified(spec, verified_head):
            _verify(blobs, spec, verified_head)
        read = read_part
    table = ChunkTable(
        read, spec.table.size, head_length=spec.head_length, head_digest=spec.head_digest
    )
    if table.device_size != spec.size_bytes:
        raise ChunkTableInvalid(
            f"device has {table.device_size} bytes, the manifest says {spec.size_bytes}"
        )
    return table


def _verdict(spec: DeviceSpec) -> str:
    """Say what has been verified: a table of this name and size begins with this head."""
    return f"{spec.table.digest} {spec.table.size} {spec.head_length} {spec.head_digest}\n"


def _is_verified(spec: DeviceSpec, verified_head: Path) -> bool:
    try:
        return verified_head.read_bytes() == _verdict(spec).encode()
    except OSError:
        return False


def _verify(blobs: BlobStore, spec: DeviceSpec, verified_head: Path) -> None:
    """Read a whole table; if it and its head have their digests, note that."""
    whole, head = hashlib.sha256(), hashlib.sha256()
    for part in Span(0, spec.table.size).split(PART_BYTES):
        # The head is taken from the same bytes: a store may give others when it is asked again.
        content = memoryview(blobs.read(spec.table.digest, part))
        whole.update(content)
        head.update(content[: max(0, spec.head_length - part.offset)])
    for found, expected, what in (
        (whole, spec.table.digest, "chunk table"),
        (head, spec.head_digest, "head of chunk table"),
    ):
        if found.hexdigest() != expected.hex:
            raise DigestMismatch(what, str(expected), f"sha256:{found.hexdigest()}")
    _keep(verified_head, _verdict(spec))


def _keep(path: Path, verdict: str) -> None:
    """Place the verdict by one rename. Not synced, and none is no matter: it costs a reading."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        staged.write_text(verdict)
        staged.replace(path)
