"""Pages of devices, read from the store through their chunk tables: every byte verified.

For the start bundle, which must hold right bytes wherever the local files stand. Chunks are
decoded once and a few are kept, since runs in order of use come back to the same ones. Not safe
for several threads.
"""

from __future__ import annotations

from collections import OrderedDict

from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import BlobStore
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.packs import decode_verified
from hotstart.store.page_runs import Run

_KEPT_BYTES = 64 << 20


class StorePages:
    """Reads ``devices`` out of ``blobs``; has the shape of the bundle builder's DevicePages."""

    def __init__(self, devices: tuple[DeviceDescriptor, ...], blobs: BlobStore) -> None:
        self._blobs = blobs
        self._devices = {device.device_id: device for device in devices}
        self._tables: dict[str, ChunkTable] = {}
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._kept_bytes = 0

    def read(self, device_id: str, run: Run) -> bytes:
        """Return the run's bytes; holes are zeros. Raises what store and digests do."""
        wanted = Span(run.first_page * PAGE, run.pages * PAGE)
        content = bytearray(wanted.length)
        for chunk in self._table(device_id).between(wanted):
            common = wanted.overlap(Span(chunk.device_offset, chunk.length))
            if common is None:
                continue
            raw = self._chunk(device_id, chunk)
            start = common.offset - chunk.device_offset
            at = common.offset - wanted.offset
            content[at : at + common.length] = raw[start : start + common.length]
        return bytes(content)

    def _table(self, device_id: str) -> ChunkTable:
        if device_id not in self._tables:
            self._tables[device_id] = ChunkTable.open(self._blobs, self._devices[device_id])
        return self._tables[device_id]

    def _chunk(self, device_id: str, chunk: Chunk) -> bytes:
        key = (device_id, chunk.device_offset)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        pack = self._table(device_id).packs[chunk.pack]
        stored = self._blobs.read(pack, Span(chunk.pack_offset, chunk.stored_length))
        raw = bytes(
            decode_verified(
                stored,
                raw=chunk.raw,
                length=chunk.length,
                digest=chunk.digest,
                source=str(pack),
            )
        )
        self._kept[key] = raw
        self._kept_bytes += len(raw)
        while self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return raw
