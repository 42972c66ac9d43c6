"""A tree goes into a store: packs, chunk table, bootstrap. No manifest, no reference.

Small files (at most 2 KiB) lie in the bootstrap, which saves a fault each; the bootstrap is needed
whole before a mount, so their sum is bounded, and the limit sinks until it is kept. The order of
data is that of paths, after those that ``options.order`` names.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from hotstart.core.progress import NullSink, ProgressSink
from hotstart.core.span import PAGE, Span
from hotstart.store import zstd_frame
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor, bootstrap_descriptor
from hotstart.store.stack import Store
from image_builder.bootstrap import (
    BootstrapDevice,
    BootstrapDraft,
    fits_inline,
    write_bootstrap,
)
from image_builder.device_writer import (
    BaseChunks,
    DeviceWriter,
    WrittenDevice,
    placements_total,
)
from image_builder.options import BuildOptions, BuildStats, BuiltTree
from image_builder.placement import FilePlacement, place
from image_builder.segments import plan_segments
from image_builder.touched_chunks import TouchedChunks
from image_builder.tree import Content, Node, Tree

INLINE_FILE = 2048
INLINE_TOTAL = 4 << 20

_File = tuple[bytes, Node, Content]


def build_tree(
    tree: Tree,
    store: Store,
    *,
    options: BuildOptions | None = None,
    progress: ProgressSink | None = None,
    base: Sequence[DeviceDescriptor] = (),
    touched: TouchedChunks | None = None,
) -> BuiltTree:
    """Store ``tree`` and return what a manifest needs to know of it.

    Chunks of ``base`` are borrowed, those of ``touched`` laid out together. Blobs stored before a
    failure stay behind unreferenced.

    Raises SourceChanged, SourceInvalid, NotRepresentable, or what the store raises.
    """
    started = time.monotonic()
    options = options or BuildOptions()
    progress = progress or NullSink()
    files = list(_files(tree))
    placements = _placements(tree, files, options)
    with ThreadPoolExecutor(1, "beside-data") as beside:
        counting = beside.submit(_input_bytes, files, placements)
        writing = partial(
            DeviceWriter,
            store.blobs,
            BaseChunks(store.blobs, base),
            touched or TouchedChunks(),
            progress,
            options.threads,
        )
        bootstrap, written = _write(tree, store, placements, options, writing, beside)
    stats = BuildStats(
        files=len(files),
        input_bytes=counting.result(),
        uploaded_bytes=bootstrap.size + (written.uploaded_bytes if written else 0),
        new_chunks=written.new_chunks if written else 0,
        borrowed_chunks=written.borrowed_chunks if written else 0,
        repeated_chunks=written.repeated_chunks if written else 0,
        elapsed_s=time.monotonic() - started,
    )
    devices = (written.descriptor,) if written else ()
    extents = _extents(tree, placements, options)
    return BuiltTree(bootstrap, devices, extents, written.trace if written else None, stats)


def _write(
    tree: Tree,
    store: Store,
    placements: Sequence[FilePlacement],
    options: BuildOptions,
    writing: Callable[[], DeviceWriter],
    beside: ThreadPoolExecutor,
) -> tuple[Descriptor, WrittenDevice | None]:
    """Store the device, if any file needs one, and the bootstrap, drafted ``beside`` the data."""
    by_node = {id(placement.node): placement for placement in placements}
    with_data = [placement for placement in placements if placement.runs]
    if not with_data:
        return _store_bootstrap(store, write_bootstrap(tree, by_node, ())), None
    segments = plan_segments(with_data, _node_ids(tree, options.small_chunks_for))
    with writing() as writer:
        drafting = beside.submit(BootstrapDraft, tree, by_node, device_count=1)
        writer.take(segments, placements_total(with_data))
        written = writer.finish()
        device = written.descriptor
        slot = BootstrapDevice(device.device_id, device.size_bytes // PAGE)
        bootstrap = _store_bootstrap(store, drafting.result().finish([slot]))
    return bootstrap, written


def _store_bootstrap(store: Store, image: bytearray) -> Descriptor:
    stored = zstd_frame.compress(image)
    bootstrap = bootstrap_descriptor(stored, image)
    store.blobs.put(bootstrap.digest, stored)
    return bootstrap


def _files(tree: Tree) -> Iterator[_File]:
    """Yield every regular file that is not empty, once, under its first path."""
    seen: set[int] = set()
    for path, node in tree.walk():
        if stat.S_ISREG(node.mode) and node.content and node.size and id(node) not in seen:
            seen.add(id(node))
            yield path, node, node.content


def _node_ids(tree: Tree, paths: Iterable[bytes]) -> frozenset[int]:
    """Return ``id(node)`` of every path that exists; a hard link counts under any name."""
    return frozenset(id(node) for path in paths if (node := tree.get(path)) is not None)


def _placements(tree: Tree, files: Sequence[_File], options: BuildOptions) -> list[FilePlacement]:
    """Return the files that go into the device, in its order."""
    wanted = _node_ids(tree, (*options.extents_for, *options.small_chunks_for))
    limit = _inline_limit(files)
    placed = [
        place(path, node, content, dense=id(node) in wanted)
        for path, node, content in files
        if id(node) in wanted or node.size > limit or not fits_inline(node)
    ]
    rank = {path: number for number, path in enumerate(options.order)}
    placed.sort(key=lambda placement: rank.get(placement.path, len(rank)))
    return placed


def _inline_limit(files: Sequence[_File]) -> int:
    limit = INLINE_FILE
    while sum(node.size for _path, node, _content in files if node.size <= limit) > INLINE_TOTAL:
        limit //= 2
    return limit


def _input_bytes(files: Sequence[_File], placements: Sequence[FilePlacement]) -> int:
    placed = {id(placement.node): placement for placement in placements}
    total = 0
    for _path, node, _content in files:
        placement = placed.get(id(node))
        total += node.size if placement is None else min(node.size, placement.extent_size)
    return total


def _extents(
    tree: Tree, placements: Sequence[FilePlacement], options: BuildOptions
) -> dict[bytes, Span]:
    placed = {id(placement.node): placement for placement in placements}
    found = {}
    for path in options.extents_for:
        node = tree.get(path)
        placement = placed.get(id(node)) if node is not None else None
        if placement is not None:
            found[path] = Span(placement.device_offset, placement.extent_size)
    return found
