"""Puts a snapshot's staged files into a store, through the builder that makes images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hotstart.core.progress import ProgressSink
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.stack import Store
from image_builder.build_tree import build_tree
from image_builder.directory import scan
from image_builder.options import BuildOptions, BuiltTree


def build_files(
    tree: Path,
    store: Store,
    memory: Sequence[bytes],
    progress: ProgressSink,
    base: Sequence[DeviceDescriptor] = (),
) -> BuiltTree:
    """Store the directory ``tree``; the files ``memory`` get small chunks and known extents.

    Raises what the builder and the store raise.
    """
    found = scan(os.fsencode(tree))
    options = BuildOptions(extents_for=tuple(memory), small_chunks_for=tuple(memory))
    built = build_tree(found.tree, store, options=options, progress=progress, base=base)
    found.check_directories()
    return built
