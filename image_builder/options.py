"""What a build is asked for, and what it returns. Plain values; the work is in ``build``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotstart.core.span import Span
from hotstart.store.descriptor import Descriptor
from hotstart.store.manifest import DeviceDescriptor, ImageManifest
from hotstart.store.trace import Trace
from image_builder.limits import Limits


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of one build. Paths of files are bytes, relative to the root of the tree."""

    command: tuple[str, ...] | None = None
    """Replaces Cmd and clears Entrypoint; None keeps both."""
    environment: tuple[str, ...] = ()
    """``NAME=value`` each; replaces a variable of the same name."""
    workdir: str | None = None
    user: str | None = None
    base: str | None = None
    """Reference of an image or snapshot whose chunks are borrowed instead of written again."""
    trace: str | None = None
    """Reference of an image whose recorded starts say what is laid out first."""
    order: tuple[bytes, ...] = ()
    """Paths whose data comes first in the device, in this order."""
    extents_for: tuple[bytes, ...] = ()
    """Paths whose place in the device is returned. They are stored without holes, never inline."""
    small_chunks_for: tuple[bytes, ...] = ()
    """Paths that get smaller chunks (memory files of snapshots)."""
    platform: str | None = None
    """``os/architecture[/variant]`` to choose from a multi-platform image; None: this machine's."""
    threads: int = 0
    """Worker threads; 0 takes one per core, at most 16."""
    staging: Path | None = None
    """Where compressed layers are unpacked to (unlinked files); None: the usual temporary place."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class BuildStats:
    """Counts of one build; sizes in bytes."""

    files: int
    input_bytes: int
    """Data of all regular files, holes left out, hard links once."""
    uploaded_bytes: int
    """Written to the store: new packs, table, bootstrap, config and manifest."""
    new_chunks: int
    borrowed_chunks: int
    """Distinct chunks found in the base."""
    repeated_chunks: int
    """Chunks of this tree equal to an earlier one of this tree."""
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class BuiltTree:
    """A tree in the store: what a manifest needs to know of it. No reference points to it yet."""

    bootstrap: Descriptor
    devices: tuple[DeviceDescriptor, ...]
    """One device, or none if no file has data outside the bootstrap."""
    extents: Mapping[bytes, Span]
    """Place in the device, in bytes, of each non-empty file of ``options.extents_for``."""
    trace: Trace | None
    """What recorded starts touched of an earlier image, at its places in this one."""
    stats: BuildStats


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A published image: the reference points to ``descriptor``."""

    descriptor: Descriptor
    manifest: ImageManifest
    extents: Mapping[bytes, Span]
    stats: BuildStats
