"""Which bytes of packs are live: the places of all chunks that the tables of some images list.

What was added stays: for a collector it is no harm to take something for live that is dead by now.
Memory: a pack that is live as a whole, or in a few runs, costs some hundred bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound
from hotstart.core.log import get_logger
from hotstart.core.span import Span, merge
from hotstart.store.blob_store import BlobStore
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.layers import DeviceDescriptor

log = get_logger(__name__)

TABLE_READERS = 4


class LiveSpans:
    """The live spans of every pack that an added table lists."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._spans: dict[Digest, list[Span]] = {}
        self._unknown: set[Digest] = set()
        self._seen: set[Digest] = set()

    def add(self, devices: Iterable[DeviceDescriptor]) -> None:
        """Add the chunks of these devices; each table is read once. Raises what the store raises.

        Of a table that is missing or damaged nobody knows what it needs: its packs are unknown.
        """
        fresh = {
            device.table.digest: device
            for device in devices
            if device.table.digest not in self._seen
        }
        with ThreadPoolExecutor(TABLE_READERS, "tables") as readers:
            found = readers.map(self._of_device, fresh.values())
            for device, spans in zip(fresh.values(), found, strict=True):
                self._seen.add(device.table.digest)
                if spans is None:
                    self._unknown.update(pack.digest for pack in device.packs)
                for pack, added in (spans or {}).items():
                    self._spans[pack] = merge([*self._spans.get(pack, ()), *added])

    def packs(self) -> set[Digest]:
        """Return every pack of which something is live."""
        return set(self._spans)

    def of(self, pack: Digest) -> Sequence[Span] | None:
        """Return the live spans of a pack, merged and in order; None if they are unknown."""
        return None if pack in self._unknown else self._spans.get(pack, ())

    def _of_device(self, device: DeviceDescriptor) -> dict[Digest, list[Span]] | None:
        try:
            table = ChunkTable.open(self._blobs, device)
            spans: list[list[Span]] = [[] for _ in table.packs]
            for chunk in table:
                spans[chunk.pack].append(Span(chunk.pack_offset, chunk.stored_length))
        except (NotFound, IntegrityError) as err:
            log.warning("table_not_read", table=device.table.digest, reason=err)
            return None
        found: dict[Digest, list[Span]] = {}
        for pack, listed in zip(table.packs, spans, strict=True):
            # A hostile table may name one pack under two numbers.
            found[pack] = merge([*found.get(pack, ()), *listed])
        return found
