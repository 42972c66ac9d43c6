"""Traces in a store: for each image one, the union of its starts, under a reserved reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound
from hotstart.core.span import PAGE, Span
from hotstart.store import media_types
from hotstart.store.blob_store import BlobStore
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.references import ReferenceChanged, ReferenceName, ReferenceUnreadable
from hotstart.store.stack import Store
from hotstart.store.trace import MAX_SPANS, Trace, TraceSpan, merge

_SWAPS = 8


class NothingRecorded(NotFound):
    """No start of the image is recorded, so nobody knows what a start touches."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"{reference}: no start of this image is recorded", "a first hotstart run records one"
        )
        self.reference = reference


def read_trace(store: Store, image: Digest) -> Trace | None:
    """Return the trace of the image with this manifest, or None.

    Raises TraceInvalid, DigestMismatch, or what the store raises.
    """
    return _read(store, image)[0]


def recorded_trace(store: Store, image: Digest, reference: str) -> Trace:
    """Return the trace of an image; ``reference`` is its name in NothingRecorded, if none is."""
    trace = read_trace(store, image)
    if trace is None:
        raise NothingRecorded(reference)
    return trace


def add_trace(
    store: Store, image: Digest, trace: Trace, devices: Sequence[DeviceDescriptor]
) -> Trace | None:
    """Add ``trace`` to what is recorded for the image; return the union, None if nothing is added.

    Starts whose input differs would add up to the whole image: nothing is added beyond a quarter of
    its ``devices``. A trace that is damaged or gone is replaced, and spans of other devices are
    left out. Raises ReferenceChanged if others keep adding, or what the store raises.
    """
    limit_pages = sum(device.size_bytes for device in devices) // PAGE // 4
    for attempt in range(_SWAPS):
        try:
            known, version = _read(store, image)
        except ReferenceUnreadable as err:
            known, version = None, err.version
        except (IntegrityError, NotFound):
            known, version = None, store.references.get(ReferenceName.trace_of(image)).version
        own = None if known is None else _within(known, devices)
        union = _union(own, _within(trace, devices))
        if own is not None and own == known and not own.pages < union.pages <= limit_pages:
            return None
        content = union.encode()
        descriptor = Descriptor.of(media_types.TRACE, content)
        store.blobs.put(descriptor.digest, content)
        try:
            store.references.swap(ReferenceName.trace_of(image), descriptor, version)
        except ReferenceChanged:
            if attempt == _SWAPS - 1:
                raise
        else:
            return union
    raise AssertionError("the last attempt returns or raises")


def chunks_touched(
    blobs: BlobStore, devices: Iterable[DeviceDescriptor], trace: Trace
) -> Iterator[tuple[TraceSpan, Chunk]]:
    """Yield each span with each chunk that it touches; spans of other devices are left out.

    Raises what the store and the chunk tables raise.
    """
    known = {device.device_id: device for device in devices}
    tables = [
        ChunkTable.open(blobs, known[device_id]) if device_id in known else None
        for device_id in trace.device_ids
    ]
    for span in trace.spans:
        table = tables[span.device]
        pages = Span(span.first_page * PAGE, span.pages * PAGE)
        for chunk in table.between(pages) if table is not None else ():
            yield span, chunk


def _within(trace: Trace, devices: Sequence[DeviceDescriptor]) -> Trace:
    """Return the trace without devices that are not among these."""
    known = {device.device_id for device in devices}
    kept = [number for number, one in enumerate(trace.device_ids) if one in known]
    number_of = {number: new for new, number in enumerate(kept)}
    spans = (
        replace(span, device=number_of[span.device])
        for span in trace.spans
        if span.device in number_of
    )
    return Trace(tuple(trace.device_ids[number] for number in kept), tuple(spans))


def _read(store: Store, image: Digest) -> tuple[Trace | None, str | None]:
    try:
        reference = store.references.get(ReferenceName.trace_of(image))
    except NotFound:
        return None, None
    return Trace.decode(bytes(store.blobs.read(reference.target.digest))), reference.version


def _union(known: Trace | None, new: Trace) -> Trace:
    union = merge([known, new] if known is not None else [new])
    return Trace(union.device_ids, union.spans[:MAX_SPANS])
