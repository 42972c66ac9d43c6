"""Builds an image: source, data, bootstrap, config, manifest, and last of all the reference.

The reference moves only when everything it reaches is stored, so a failed build leaves it as it
was; blobs written until then are unreferenced and harmless. Two builds of one name that race: the
later one wins, by compare-and-set, and neither is half there.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from hotstart.core.errors import HotstartError, Unavailable
from hotstart.core.log import get_logger
from hotstart.core.progress import NullSink, ProgressSink
from hotstart.store import media_types
from hotstart.store.descriptor import Descriptor
from hotstart.store.leased import Writer, leased
from hotstart.store.manifest import DeviceDescriptor, ImageManifest, read_manifest
from hotstart.store.publishing import move
from hotstart.store.references import ReferenceChanged, ReferenceName
from hotstart.store.stack import Store
from hotstart.store.traces import add_trace, recorded_trace
from image_builder.build_tree import build_tree
from image_builder.image_config import encode_config
from image_builder.oci_image import host_architecture
from image_builder.options import BuildOptions, BuildResult, BuildStats, BuiltTree
from image_builder.sources import open_source
from image_builder.touched_chunks import TouchedChunks

__all__ = ["build", "build_tree"]

log = get_logger(__name__)

_SWAPS = 16


class ReferenceContended(Unavailable):
    """Others moved the reference each time this build tried to."""

    def __init__(self, store_url: str, name: ReferenceName) -> None:
        super().__init__(f"{store_url}: {name} is being moved by many builds at once; try again")
        self.name = name


def build(
    source: str,
    store: Store,
    *,
    reference: str,
    options: BuildOptions | None = None,
    progress: ProgressSink | None = None,
) -> BuildResult:
    """Build ``source`` and point ``reference`` to it.

    Raises NothingRecorded, SourceInvalid, SourceChanged, LimitExceeded, NotRepresentable,
    StagingFull, DigestMismatch, ReferenceNameInvalid, LeaseLost, Collected, or what the store
    raises; then nothing is published.
    """
    started = time.monotonic()
    options = options or BuildOptions()
    name = ReferenceName.parse(reference)
    base_manifest = base_of(store, options.base) if options.base else None
    touched = touched_chunks(store, options.trace) if options.trace else None
    with ExitStack() as stack:
        stack.enter_context(_collector_paused())
        opened = open_source(source, options, stack)
        config = encode_config(
            opened.config, options, architecture=host_architecture(), name=source
        )
        # Held before the base is read: what is borrowed from it must not vanish meanwhile.
        writer = stack.enter_context(
            leased(store, (base_manifest.digest,) if base_manifest else ())
        )
        built = build_tree(
            opened.tree,
            writer.store,
            options=options,
            progress=progress or NullSink(),
            base=base_devices(writer.store, base_manifest) if base_manifest else (),
            touched=touched,
        )
        opened.check()
        manifest = _publish(writer, name, config, built)
    descriptor = manifest.descriptor()
    stats = replace(
        built.stats,
        uploaded_bytes=built.stats.uploaded_bytes + len(config) + descriptor.size,
        elapsed_s=time.monotonic() - started,
    )
    _log_built(name, descriptor, stats)
    return BuildResult(descriptor, manifest, built.extents, stats)


def _publish(writer: Writer, name: ReferenceName, config: bytes, built: BuiltTree) -> ImageManifest:
    blobs = writer.store.blobs
    described = Descriptor.of(media_types.OCI_CONFIG, config)
    blobs.put(described.digest, config)
    manifest = ImageManifest(described, built.bootstrap, built.devices)
    blobs.put(manifest.descriptor().digest, manifest.to_bytes())
    publish(writer, name, manifest.descriptor(), manifest.blobs())
    if built.trace is not None:
        try:
            add_trace(writer.store, manifest.descriptor().digest, built.trace, built.devices)
        except HotstartError as err:  # a help, never a need
            log.warning("trace_not_saved", reference=name, error=err)
    return manifest


def _log_built(name: ReferenceName, descriptor: Descriptor, stats: BuildStats) -> None:
    log.info(
        "image_built",
        reference=name,
        manifest=descriptor.digest,
        files=stats.files,
        input_bytes=stats.input_bytes,
        uploaded_bytes=stats.uploaded_bytes,
        new_chunks=stats.new_chunks,
        borrowed_chunks=stats.borrowed_chunks,
        elapsed_s=stats.elapsed_s,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's cycle collector from walking the whole tree again and again.

    A tree has no cycles, and looking for them takes a tenth of a build's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def base_of(store: Store, reference: str) -> Descriptor:
    """Return the manifest of an image or snapshot. Raises ReferenceNotFound and others."""
    return store.references.get(ReferenceName.parse(reference)).target


def touched_chunks(store: Store, reference: str) -> TouchedChunks:
    """Return what recorded starts touched of an image. Raises NothingRecorded and others."""
    target = store.references.get(ReferenceName.parse(reference)).target
    devices = read_manifest(store.blobs, target).devices
    trace = recorded_trace(store, target.digest, reference)
    return TouchedChunks.of(store.blobs, devices, trace)


def base_devices(store: Store, manifest: Descriptor) -> tuple[DeviceDescriptor, ...]:
    """Return the devices of an image or snapshot. Raises BlobNotFound and others."""
    return read_manifest(store.blobs, manifest).devices


def publish(
    writer: Writer, name: ReferenceName, target: Descriptor, needed: Sequence[Descriptor]
) -> None:
    """Point ``name`` to ``target``, whatever it points to now, and look once more for ``needed``.

    Raises ReferenceContended, Collected, LeaseLost; then nothing is published.
    """
    for _attempt in range(_SWAPS):
        try:
            move(writer, name, target, needed)
        except ReferenceChanged:
            continue
        return
    raise ReferenceContended(writer.store.url, name)
