"""Turns prefetch plans into tasks, lazily where a plan is long.

Chunk plans look up chunks, note holes, and queue what is absent in requests of up to 4 MiB of
neighbouring chunks. A bundle's frames become pieces at once (an index is small) and are grouped
into requests of about 1 MiB in the order of the bundle, which is the order of use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hotstart.core.batching import in_batches
from hotstart.core.span import PAGE, Span
from hotstart.store.bundle import Frame
from hotstart.store.chunk_table import Chunk
from hotstart.store.trace import Trace
from lazyfs.claims import PREFETCH_BYTES
from lazyfs.device import Device, DeviceClosed
from lazyfs.fill_engine import FillEngine
from lazyfs.holes import note_holes
from lazyfs.pieces import Piece, Purpose, Target, Task
from lazyfs.plans import BundlePlan

BUNDLE_REQUEST_BYTES = 1 << 20
TRACE_BATCH_BYTES = 1 << 20


def everything_tasks(engine: FillEngine, devices: Sequence[Device]) -> Iterator[Task]:
    """Yield tasks for every absent chunk, device by device."""
    for device in devices:
        if device.all_ready():
            continue
        table, position = device.table(), 0
        for batch in in_batches(table, PREFETCH_BYTES, _stored_length):
            if device.closed:
                raise DeviceClosed(device.device_id)
            end = batch[-1].device_offset + batch[-1].length
            note_holes(device, Span(position, end - position), batch)
            position = end
            yield from engine.claims.queue_chunks(device, batch, table.packs, Purpose.PULL)
        note_holes(device, Span(position, device.spec.pages * PAGE - position), [])
        engine.check_complete(device)


def trace_tasks(engine: FillEngine, trace: Trace, devices: Mapping[str, Device]) -> Iterator[Task]:
    """Yield tasks for the chunks that the trace touched, in order of first touch."""
    known = [devices.get(device_id) for device_id in trace.device_ids]
    for device, chunks in _touched(trace, known):
        for batch in in_batches(chunks, TRACE_BATCH_BYTES, _stored_length):
            yield from engine.claims.queue_chunks(device, batch, device.table().packs)


def _touched(trace: Trace, known: Sequence[Device | None]) -> Iterator[tuple[Device, list[Chunk]]]:
    """Yield runs of chunks of one device; each chunk once."""
    seen: set[tuple[int, int]] = set()
    current: Device | None = None
    chunks: list[Chunk] = []
    for span in trace.spans:
        device = known[span.device]
        if device is None or device.all_ready():
            continue
        if device is not current or len(chunks) >= 64:
            if current is not None and chunks:
                yield current, chunks
            current, chunks = device, []
        for chunk in device.table().between(Span(span.first_page * PAGE, span.pages * PAGE)):
            if (span.device, chunk.device_offset) not in seen:
                seen.add((span.device, chunk.device_offset))
                chunks.append(chunk)
    if current is not None and chunks:
        yield current, chunks


def _stored_length(chunk: Chunk) -> int:
    return chunk.stored_length


def bundle_tasks(
    plan: BundlePlan, devices: Mapping[str, Device]
) -> tuple[list[Task], dict[Device, list[tuple[Target, Piece]]]]:
    """Return the tasks for the frames that bring something absent, and who fills what."""
    known = [devices.get(device_id) for device_id in plan.index.device_ids]
    tasks: list[Task] = []
    frames: dict[Device, list[tuple[Target, Piece]]] = {}
    for frame in plan.index.frames:
        piece = _piece(frame, known)
        if not piece.targets:
            continue
        for target in piece.targets:
            frames.setdefault(target.device, []).append((target, piece))
        if tasks and _fits(tasks[-1], piece):
            tasks[-1].pieces.append(piece)
            piece.task = tasks[-1]
        else:
            tasks.append(Task(plan.store_url, plan.bundle, [piece], from_bundle=True))
    return tasks, frames


def _piece(frame: Frame, known: Sequence[Device | None]) -> Piece:
    """Return the frame as a piece with the runs that are absent and whose device is known."""
    targets: list[Target] = []
    position = 0
    for run in frame.runs:
        device = known[run.device]
        if device is not None:
            target = Target(device, run.first_page, run.pages, position)
            if target.missing():
                targets.append(target)
        position += run.pages * PAGE
    return Piece(
        frame.offset, frame.stored_length, frame.length, frame.raw, frame.digest, tuple(targets)
    )


def _fits(task: Task, piece: Piece) -> bool:
    return (
        task.pieces[-1].end == piece.offset
        and piece.end - task.pieces[0].offset <= BUNDLE_REQUEST_BYTES
    )
