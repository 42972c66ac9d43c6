"""Bootstraps that may be mounted: here, with the right digest, and found well-formed once.

Whoever can write a store can make the kernel read a file system of theirs, so a bootstrap is
checked through and through (hotstart/store/bootstrap_check.py) when it arrives. The verdict is kept
beside it, in HEX.checked: the version of the check, the digest that it holds for, and the devices
that the bootstrap names. Later mounts compare digest and devices only. A verdict of another version
counts for nothing.

What a trusted key has signed for (a snapshot, and its image by its digest) may be mounted at once
and is walked through some seconds later, by the next agent if this one ends before: that takes 7 us
an inode, a third of a second of a restore on an empty node. If it proves bad it is logged and the
verdict says so: no later mount takes it, whoever has signed. Methods may be called from any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, SpanOutside
from hotstart.store.bootstrap_check import check_bootstrap_image
from hotstart.store.bootstrap_head import BootstrapInvalid, parse_head
from hotstart.store.chunk_table_layout import HEAD, ChunkTableInvalid, parse_head_length
from hotstart.store.layers import raw_digest
from lazyfs.cache import Cache
from lazyfs.spec import DeviceSpec, MountSpec

log = get_logger(__name__)

CHECK_VERSION = 1
"""Raised whenever the check refuses more than before: what was accepted is then checked again."""

WALK_AFTER_S = 10.0
"""After the mount, so that a restore has its first answer by then."""

Devices = list[tuple[str, int]]
"""Device id and blocks of each device, in the order of the device table."""


class KnownBad(IntegrityError):
    """A walk behind an earlier mount has found the bootstrap out of form."""

    def __init__(self, manifest: str, problem: str) -> None:
        super().__init__(
            f"image {manifest[:12]}: {problem}", "build the image or capture the snapshot again"
        )


class DevicesDisagree(IntegrityError):
    """A manifest's devices are not those that its bootstrap names."""

    def __init__(self, manifest: str) -> None:
        super().__init__(
            f"image {manifest[:12]}: its bootstrap names other devices than it has; build or copy "
            "the image again"
        )


def checked_bootstrap(cache: Cache, spec: MountSpec, blobs: BlobStore) -> Path:
    """Return the bootstrap of an image, fit to be mounted with the image's devices.

    Raises BootstrapInvalid, KnownBad, DevicesDisagree, and what fetching it raises.
    """
    path = cache.bootstrap(spec.bootstrap, blobs)
    digest = raw_digest(spec.bootstrap)
    devices = _read_verdict(path, digest, spec.manifest)
    # What had a verdict of another version is no arrival that a restore waits for.
    if devices is None and spec.is_vouched and not path.with_suffix(".checked").exists():
        devices = list(parse_head(path.read_bytes()).devices)
        _walk_later(path, digest)
    elif devices is None:
        devices = _check(path, path.read_bytes())
        _keep_verdict(path, digest, {"devices": devices})
    if devices != [_named(device) for device in spec.devices]:
        for device in spec.devices:
            _refuse_later_version(device, blobs)
        raise DevicesDisagree(spec.manifest)
    return path


def walk_unchecked(cache: Cache, spec: MountSpec) -> None:
    """Have the bootstrap of a mount of an earlier agent walked through if that agent did not."""
    digest = raw_digest(spec.bootstrap)
    path = cache.bootstrap_path(digest)
    if not path.with_suffix(".checked").exists():
        _walk_later(path, digest)


def _walk_later(path: Path, digest: Digest) -> None:
    walk = threading.Timer(WALK_AFTER_S, _walk, (path, digest))
    walk.daemon = True
    walk.start()


def _refuse_later_version(device: DeviceSpec, blobs: BlobStore) -> None:
    """Raise FormatVersionUnknown if the device's table is of one: that says more than its name."""
    with contextlib.suppress(ChunkTableInvalid, NotFound, SpanOutside):
        head = blobs.read(device.table.digest, Span(0, min(device.table.size, HEAD.size)))
        parse_head_length(head, device.table.size)


def _named(device: DeviceSpec) -> tuple[str, int]:
    return device.device_id, device.pages


def _walk(path: Path, digest: Digest) -> None:
    """Check what is mounted already, and keep the verdict: good or bad, for the next mount."""
    with contextlib.suppress(OSError):  # removed meanwhile: it is looked at when it comes again
        content = path.read_bytes()
        if path.with_suffix(".checked").exists() or Digest.of(content) != digest:
            return
        found: dict[str, Any] = {}
        try:
            found["devices"] = _check(path, content)
        except BootstrapInvalid as err:
            found["problem"] = str(err)
            log.warning(
                "bootstrap_invalid", path=path, reason=err, action="no later mount takes it"
            )
        _keep_verdict(path, digest, found)


def _check(path: Path, content: bytes) -> Devices:
    head = check_bootstrap_image(content)
    log.info("bootstrap_checked", path=path, inodes=head.inodes)
    return list(head.devices)


def _read_verdict(path: Path, digest: Digest, manifest: str) -> Devices | None:
    """Return the devices of a bootstrap that was found right, or None: check it.

    Raises KnownBad.
    """
    try:
        value = json.loads(path.with_suffix(".checked").read_bytes())
        if (value["version"], value["digest"]) != (CHECK_VERSION, str(digest)):
            return None
        if "problem" in value:
            raise KnownBad(manifest, str(value["problem"]))
        return [(str(tag), int(blocks)) for tag, blocks in value["devices"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep_verdict(path: Path, digest: Digest, found: dict[str, Any]) -> None:
    """Place the verdict by one rename. Not synced, and none is no matter: it costs a check."""
    staged = path.with_name(f".{path.name}.checked.{os.getpid()}.{threading.get_ident()}")
    value = {"version": CHECK_VERSION, "digest": str(digest), **found}
    with contextlib.suppress(OSError):
        staged.write_text(json.dumps(value))
        staged.replace(path.with_suffix(".checked"))
