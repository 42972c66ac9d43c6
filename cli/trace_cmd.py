"""``hotstart trace``: what is recorded for a reference. Needs no agent.

For an image: the trace of a first start, by device. For a snapshot: its start bundle, by device,
and the working set of its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from cli.command import HotstartCommand
from cli.output import show, show_json, size, table
from cli.settings import Settings
from cli.stored import load
from hotstart.core.span import PAGE
from hotstart.store.bundle import BundleIndex, NoStartBundle
from hotstart.store.manifest import ImageManifest, SnapshotManifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import Store, open_store
from hotstart.store.traces import recorded_trace


@click.command("trace", cls=HotstartCommand)
@click.argument("reference")
@click.pass_obj
def trace(settings: Settings, reference: str) -> None:
    """Show what is recorded for REFERENCE: how much of each device a start touches."""
    store = open_store(settings.store_url, create=False)
    name = ReferenceName.parse(reference)
    manifest = load(store, name).manifest
    if isinstance(manifest, SnapshotManifest):
        document = _of_snapshot(name, manifest)
    else:
        document = _of_image(store, name, manifest)
    document = {"reference": str(name), **document}
    if settings.json:
        show_json(document)
        return
    rows = [(d["device"][:12], d["pages"], size(d["bytes"])) for d in document["devices"]]
    show(table(("DEVICE", "PAGES", "BYTES"), rows))
    if "span_ms" in document:
        show(f"{document['spans']} spans within {document['span_ms']} ms of the start")
    if "memory_bytes" in document:
        show(
            f"bundle of {document['frames']} frames, {size(document['stored_bytes'])} stored; "
            f"working set of memory: {size(document['memory_bytes'])}"
        )


def _of_image(store: Store, name: ReferenceName, image: ImageManifest) -> dict[str, Any]:
    recorded = recorded_trace(store, image.descriptor().digest, str(name))
    pages = _sum((recorded.device_ids[span.device], span.pages) for span in recorded.spans)
    return {
        "kind": "image",
        "devices": _devices(pages),
        "spans": len(recorded.spans),
        "span_ms": max((span.at_ms for span in recorded.spans), default=0),
    }


def _of_snapshot(name: ReferenceName, snapshot: SnapshotManifest) -> dict[str, Any]:
    if snapshot.bundle_index is None:
        raise NoStartBundle(str(name))
    index = BundleIndex.decode(snapshot.bundle_index.data or b"")
    runs = (run for frame in index.frames for run in frame.runs)
    pages = _sum((index.device_ids[run.device], run.pages) for run in runs)
    return {
        "kind": "snapshot",
        "devices": _devices(pages),
        "frames": len(index.frames),
        "stored_bytes": index.stored_bytes,
        "memory_bytes": sum(run.pages for run in index.memory_order) * PAGE,
    }


def _sum(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    pages: dict[str, int] = {}
    for device, count in pairs:
        pages[device] = pages.get(device, 0) + count
    return pages


def _devices(pages: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"device": device, "pages": count, "bytes": count * PAGE} for device, count in pages.items()
    ]
