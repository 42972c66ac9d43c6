"""Pulls: everything of a reference, or what its recorded starts touch, comes into the cache.

What is fetched is mounted meanwhile, so that it is served, counted and kept like any other use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from agent.long_call import LongCall
from agent.mount_targets import DEFAULT_READ_AHEAD_KIB
from agent.parts import Parts
from agent.starts import gained
from agent.values import PullReport
from hotstart.core.progress import Progress
from hotstart.core.span import PAGE
from hotstart.store.bundle import NoStartBundle
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.manifest import ImageManifest, Manifest, SnapshotManifest, read_manifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import Store
from hotstart.store.trace import Trace
from hotstart.store.traces import chunks_touched, recorded_trace
from lazyfs.plans import BundlePlan, EverythingPlan, Plan, TracePlan
from lazyfs.spec import MountSpec
from runtime.loaded_snapshot import load_snapshot

Call = LongCall[Any]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be mounted and fetched; ``done`` counts up to ``total`` bytes meanwhile."""

    task: str
    manifest: Manifest
    specs: Sequence[MountSpec]
    plans: Sequence[tuple[str, Plan]]
    total: int
    done: Callable[[], int]
    size_bytes: int


def manifest_of(store: Store, reference: str) -> Manifest:
    """Return what a reference points to. Raises what the store and the formats raise."""
    target = store.references.get(ReferenceName.parse(reference)).target
    return read_manifest(store.blobs, target)


def pull(parts: Parts, store_url: str, reference: str, call: Call) -> PullReport:
    """Make everything of a reference local: for a snapshot its own files and its image's."""
    manifest = manifest_of(parts.stores.get(store_url), reference)
    specs = [MountSpec.of(image, store_url) for image in _images(manifest)]
    sizes = {device.device_id: device.size_bytes for spec in specs for device in spec.devices}
    total = sum(sizes.values())

    def local() -> int:
        stats = parts.filler.stats()
        return sum(stats[one]["bytes_local"] for one in sizes if one in stats)

    plans = [(spec.manifest, EverythingPlan()) for spec in specs]
    report = _fetch(parts, _Wanted("pull", manifest, specs, plans, total, local, total), call)
    parts.pulled.keep(store_url, reference, manifest)
    return report


def warm(parts: Parts, store_url: str, reference: str, call: Call) -> PullReport:
    """Make what recorded starts touch local: along an image's trace, or a snapshot's start bundle.

    The report's size is that of the pages touched. Raises NothingRecorded, NoStartBundle, and what
    the store, the formats and mounting raise.
    """
    store = parts.stores.get(store_url)
    manifest = manifest_of(store, reference)
    plan = _recorded(parts, store, reference, manifest)
    specs = [MountSpec.of(image, store_url) for image in _images(manifest)]
    if isinstance(plan, BundlePlan):
        trace, total = plan.index.as_trace(), plan.index.stored_bytes
    else:
        trace = plan.trace
        devices = [device for image in _images(manifest) for device in image.devices]
        total = stored_bytes(store, devices, trace)
    fetched = _gain(parts, specs)
    plans = [(specs[0].manifest, plan)]
    size_bytes = trace.pages * PAGE
    return _fetch(parts, _Wanted("warm", manifest, specs, plans, total, fetched, size_bytes), call)


def stored_bytes(store: Store, devices: Sequence[DeviceDescriptor], trace: Trace) -> int:
    """Return how many bytes the chunks that a trace touches have in the store."""
    lengths = {
        (span.device, chunk.device_offset): chunk.stored_length
        for span, chunk in chunks_touched(store.blobs, devices, trace)
    }
    return sum(lengths.values())


def _images(manifest: Manifest) -> Sequence[ImageManifest | SnapshotManifest]:
    if isinstance(manifest, SnapshotManifest):
        return (manifest, manifest.image())
    return (manifest,)


def _recorded(
    parts: Parts, store: Store, reference: str, manifest: Manifest
) -> BundlePlan | TracePlan:
    if not isinstance(manifest, SnapshotManifest):
        return TracePlan(recorded_trace(store, manifest.descriptor().digest, reference))
    # Nothing of it runs, and what nobody vouches for is fetched chunk by chunk, verified.
    snapshot = load_snapshot(store, reference, trusted=parts.trusted(), trust_unsigned=True)
    plan = snapshot.bundle_plan()
    if plan is None:
        raise NoStartBundle(reference)
    return plan


def _gain(parts: Parts, specs: Sequence[MountSpec]) -> Callable[[], int]:
    """Return how to ask what was read of the store for the devices of ``specs`` from now on."""
    own = {device.device_id for spec in specs for device in spec.devices}

    def counts() -> dict[str, int]:
        return {name: count for name, count in parts.fetched().items() if name in own}

    before = counts()
    return lambda: gained(before, counts())


def _fetch(parts: Parts, wanted: _Wanted, call: Call) -> PullReport:
    """Mount, carry the plans out one after another, and unmount."""
    fetched = _gain(parts, wanted.specs)

    def progress() -> Progress:
        return Progress(wanted.task, min(wanted.done(), wanted.total), wanted.total)

    with ExitStack() as mounted:
        for spec in wanted.specs:
            call.check()
            mount = parts.images.mount(spec, read_ahead_kib=DEFAULT_READ_AHEAD_KIB)
            mounted.callback(mount.release)
        for name, plan in wanted.plans:
            parts.await_job(parts.images.prefetch(name, plan), call, progress)
        fetched_bytes = fetched()
        use = parts.space.check()
    if use.over_quota:
        call.notify(
            f"the cache takes {use.allocated_bytes} bytes, its quota is {use.quota_bytes}: "
            "what is left in it is in use or pinned"
        )
    call.update(Progress(wanted.task, wanted.total, wanted.total, finished=True))
    return PullReport(
        digest=str(wanted.manifest.descriptor().digest),
        size_bytes=wanted.size_bytes,
        fetched_bytes=fetched_bytes,
        elapsed_ms=round((time.monotonic() - call.started_s) * 1e3, 2),
    )
