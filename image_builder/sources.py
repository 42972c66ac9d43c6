"""Sources of a build by their written form: a directory, oci:DIR, oci-archive:F, docker-archive:F.

``open_source`` returns the merged tree and the config, and keeps every file that the tree reads
from open until the ExitStack of the build closes it. ``check`` tells whether the source still is
what was listed; it is asked once all data has been read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from image_builder.blob_files import BlobFiles, DirectoryFiles, TarFiles
from image_builder.directory import scan
from image_builder.errors import SourceInvalid
from image_builder.layer_merge import LayerMerge
from image_builder.layer_spool import Spool
from image_builder.oci_image import SavedImage, read_docker, read_oci
from image_builder.options import BuildOptions
from image_builder.tar_reader import read_members
from image_builder.tree import Tree

_UNPACKERS = 4
_HINT = "give a directory, oci:DIR, oci-archive:FILE or docker-archive:FILE"


@dataclass(frozen=True, slots=True)
class Source:
    """What a build is made of. ``config`` is the archive's config document."""

    tree: Tree
    config: Mapping[str, object] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None


def open_source(source: str, options: BuildOptions, stack: ExitStack) -> Source:
    """Read the tree of ``source``; ``stack`` must stay open while its data is read.

    Raises SourceInvalid, SourceChanged, LimitExceeded, StagingFull, DigestMismatch.
    """
    kind, colon, rest = source.partition(":")
    if not colon or kind not in ("oci", "oci-archive", "docker-archive"):
        return _directory(source, options)
    if not rest:
        raise SourceInvalid(source, "no path after the colon", _HINT)
    path, tag = _path_and_tag(rest)
    spool = Spool(options.staging, options.limits, stack)
    if kind == "oci":
        if not os.path.isdir(path):
            raise SourceInvalid(path, "not a directory with an OCI layout", _HINT)
        files: BlobFiles = DirectoryFiles(path, spool)
    else:
        if not os.path.isfile(path):
            raise SourceInvalid(path, "there is no such archive file", _HINT)
        files = TarFiles(path, spool)
    image = _read_image(kind, files, spool, tag, options)
    return Source(_merged(image, spool), image.config)


def _directory(source: str, options: BuildOptions) -> Source:
    if os.path.isdir(source):
        found = scan(os.fsencode(source), options.limits)
        return Source(found.tree, check=found.check_directories)
    if os.path.lexists(source):
        raise SourceInvalid(source, "neither a directory nor a named kind of archive", _HINT)
    raise SourceInvalid(source, "there is no such source", _HINT)


def _path_and_tag(rest: str) -> tuple[str, str]:
    """Split ``PATH[:NAME]``; a path that exists as it is has no name behind it."""
    cut = rest.find(":")
    while cut >= 0:
        if not os.path.lexists(rest) and os.path.lexists(rest[:cut]):
            return rest[:cut], rest[cut + 1 :]
        cut = rest.find(":", cut + 1)
    return rest, ""


def _read_image(
    kind: str, files: BlobFiles, spool: Spool, tag: str, options: BuildOptions
) -> SavedImage:
    expected = "manifest.json" if kind == "docker-archive" else "index.json"
    if not files.has(expected):
        raise SourceInvalid(files.name, f"no {expected} in it, so this is not {kind}", _HINT)
    if kind == "docker-archive":
        return read_docker(files, spool, tag=tag, wanted=options.platform)
    return read_oci(files, spool, tag=tag, wanted=options.platform)


def _merged(image: SavedImage, spool: Spool) -> Tree:
    merge = LayerMerge(spool.limits)
    # Unpacking is most of the work and layers are independent; merging is in order.
    with ThreadPoolExecutor(_UNPACKERS, "unpack-layer") as pool:
        opened = [pool.submit(spool.open, layer) for layer in image.layers]
        try:
            for future in opened:
                plain = future.result()
                merge.apply(read_members(plain, spool.limits, end_required=False), plain.name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return merge.tree
