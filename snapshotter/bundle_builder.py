"""Makes the start bundle of a snapshot out of what its rehearsals touched.

Order of use: first what CRIU itself reads of the dump files, then the memory working set, then the
file pages that the restored process touched. Every page is packed once, at its first place; pages
that no chunk covers (holes) are left out by whoever recorded them. Bytes are read through a
``PageReader``: from the store, or from local, complete device files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hotstart.core.digest import Digest
from hotstart.core.span import PAGE
from hotstart.store import media_types
from hotstart.store.blob_store import BlobStore
from hotstart.store.bundle import BundleWriter
from hotstart.store.descriptor import Descriptor
from hotstart.store.page_runs import PageSet, Run
from hotstart.store.trace import Trace
from snapshotter.working_set import bridge, stretches, union

FRAME_BYTES = 256 << 10
"""Uncompressed bytes of a frame: small for pages to be usable early, large for zstd to pay."""


@dataclass(frozen=True, slots=True)
class MemoryExtent:
    """Where a memory file of the dump lies: a run of pages of the device ``device_id``."""

    device_id: str
    first_page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Recording:
    """One rehearsal: file pages touched, in order, and memory pages faulted, in order.

    A memory run's ``device`` is the number of its memory file.
    """

    files: Trace
    memory: Sequence[Run]


@dataclass(frozen=True, slots=True)
class BundleParts:
    """A bundle in the store: its blob, and its index with the content inline."""

    bundle: Descriptor
    index: Descriptor


class PageReader(Protocol):
    """Where the bytes of a bundle come from."""

    def read(self, device_id: str, run: Run) -> bytes:
        """Return the run's bytes, whole pages."""


class DevicePages:
    """Reads pages of local device files through descriptors that the caller owns."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._descriptors = descriptors

    def read(self, device_id: str, run: Run) -> bytes:
        """Return the run's bytes; a short file is padded with zeros to whole pages."""
        length, offset = run.pages * PAGE, run.first_page * PAGE
        content = bytearray()
        while len(content) < length:
            piece = os.pread(
                self._descriptors[device_id], length - len(content), offset + len(content)
            )
            if not piece:
                break
            content += piece
        return bytes(content.ljust(length, b"\0"))


def make_bundle(
    recordings: Sequence[Recording],
    extents: Sequence[MemoryExtent],
    device_ids: Sequence[str],
    pages: PageReader,
    blobs: BlobStore,
) -> BundleParts:
    """Pack the recordings' pages, put the bundle into the store and describe it.

    ``extents`` are the memory files by number; ``device_ids`` number the devices: the snapshot's
    first, then the image's. Raises what the store raises; nothing refers to the blob yet.
    """
    order = bridge(stretches(union(recording.memory for recording in recordings)))
    writer = BundleWriter(tuple(device_ids), frame_bytes=FRAME_BYTES)
    packed: dict[int, PageSet] = {}
    for run in _in_order_of_use(recordings, order, extents, device_ids):
        for first, count in packed.setdefault(run.device, PageSet()).add(run.first_page, run.pages):
            new = Run(run.device, first, count)
            writer.add(new, pages.read(device_ids[new.device], new))
    content, index = writer.finish(tuple(order))
    blobs.put(Digest.of(content), content)
    encoded = index.encode()
    blobs.put(Digest.of(encoded), encoded)
    return BundleParts(
        Descriptor.of(media_types.BUNDLE, content),
        Descriptor.of(media_types.BUNDLE_INDEX, encoded, inline=True),
    )


def _in_order_of_use(
    recordings: Sequence[Recording],
    order: Sequence[Run],
    extents: Sequence[MemoryExtent],
    device_ids: Sequence[str],
) -> Iterator[Run]:
    """Yield runs of device pages: what is touched while CRIU reads the dump (the few image pages
    among them included), working set, other files."""
    numbers = {device_id: number for number, device_id in enumerate(device_ids)}
    dump = numbers[extents[0].device_id] if extents else 0
    touched = [_file_runs(recording.files, numbers) for recording in recordings]
    early = [_early(runs, dump) for runs in touched]
    for runs, count in zip(touched, early, strict=True):
        yield from runs[:count]
    for run in order:
        extent = extents[run.device]
        yield Run(numbers[extent.device_id], extent.first_page + run.first_page, run.pages)
    for runs, count in zip(touched, early, strict=True):
        yield from stretches(runs[count:])


def _early(runs: Sequence[Run], dump: int) -> int:
    """Return how many runs there are up to the last one of the dump's device."""
    return max((number for number, run in enumerate(runs, 1) if run.device == dump), default=0)


def _file_runs(trace: Trace, numbers: Mapping[str, int]) -> list[Run]:
    """Return a trace's spans, devices numbered as in the bundle; foreign ones are dropped."""
    known = [numbers.get(device_id) for device_id in trace.device_ids]
    return [
        Run(device, span.first_page, span.pages)
        for span in trace.spans
        if (device := known[span.device]) is not None
    ]
