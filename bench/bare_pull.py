"""The whole image over the link by a bare loop: what our own pull is held against, once a run.

Ranges of at most 4 MiB by obstore, 16 in flight, each decoded, verified by BLAKE3 and written to a
sparse file by the thread that fetched it. No agent, no ready map, no mount, nothing to resume.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.far_store import BUCKET, PREFIX, FarStore
from bench.fs.options import MIB
from bench.fs.raw_client import ImageFile, RawClient, Tuning, open_bucket
from bench.samples import Sample
from hotstart.core.span import Span
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.manifest import ImageManifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store

TUNING = Tuning(4 * MIB, 16)


def bare_pull_ms(far: FarStore, source_url: str, reference: str, scratch: Path) -> float:
    """Fetch the devices of an image into ``scratch`` and remove them; return the milliseconds.

    Manifest and chunk tables are read from ``source_url`` before the clock starts.
    """
    client = RawClient(open_bucket(far.endpoints["link"], BUCKET), PREFIX, TUNING)
    devices = image_devices(source_url, reference)
    targets = [scratch / f"bare-{number}" for number in range(len(devices))]
    try:
        started_s = time.monotonic()
        for device, target in zip(devices, targets, strict=True):
            client.fetch(device, target)
        return (time.monotonic() - started_s) * 1e3
    finally:
        for target in targets:
            target.unlink(missing_ok=True)


def image_devices(store_url: str, reference: str) -> list[ImageFile]:
    """Return the devices of an image, each whole."""
    store = open_store(store_url)
    target = store.references.get(ReferenceName.parse(reference)).target
    manifest = ImageManifest.parse(bytes(store.blobs.read(target.digest)))
    return [
        ImageFile(
            Span(0, device.size_bytes),
            ChunkTable.of_bytes(bytes(store.blobs.read(device.table.digest))),
        )
        for device in manifest.devices
    ]


def pull_figures(bare_ms: float, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the bare loop beside the median of our pulls, and their ratio (smaller is better)."""
    pulls = [s.phases["pull_ms"] for s in samples if s.path == "pull-and-cold" and s.answer_ok]
    figures = {"bare_pull_ms": round(bare_ms, 1)}
    if pulls:
        figures["pull_ms"] = round(statistics.median(pulls), 1)
        figures["pull_over_bare_pull"] = round(statistics.median(pulls) / bare_ms, 3)
    return figures
