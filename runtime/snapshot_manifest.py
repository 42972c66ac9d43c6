"""The manifest of a snapshot: its configuration, its draft for the rehearsal, its publication."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.store import media_types
from hotstart.store.descriptor import Descriptor
from hotstart.store.json_document import JsonValue
from hotstart.store.leased import Writer
from hotstart.store.manifest import MAX_BYTES, ImageManifest, SnapshotManifest, parse_manifest
from hotstart.store.publishing import move
from hotstart.store.references import ReferenceName
from hotstart.store.snapshot_config import (
    READY_CHECKED,
    REHEARSED,
    ExpectedAnswer,
    ExternalMount,
    Golden,
    MemoryFile,
    SnapshotConfig,
)
from hotstart.store.stack import Store
from image_builder.options import BuiltTree
from runtime.accounts import user_of
from runtime.container_spec import ContainerSpec
from runtime.rehearsal import ExpectedGolden
from runtime.snapshot_files import DUMP
from snapshotter.dump_directory import DumpDirectory
from snapshotter.fingerprint import HostFingerprint
from snapshotter.golden import Answer

INLINE_ANSWER_BYTES = 64 << 10
"""Of a longer golden answer the manifest keeps digest and length: each restore reads it whole."""

_EXTERNAL = ("/dev", "/dev/shm")  # noqa: S108 - mount points inside the container


class SnapshotTooLarge(UserError):
    """What a snapshot keeps beside files and memory is more than any reader takes."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(
            f"the manifest of the snapshot would have {size_bytes} bytes, "
            f"at most {MAX_BYTES} can be read again",
            "send fewer or shorter golden requests: they are kept in it",
        )


def snapshot_config(
    spec: ContainerSpec,
    process: Mapping[str, Any],
    *,
    image_reference: str,
    stop_signal: str,
    dump: DumpDirectory,
    built: BuiltTree,
    goldens: Sequence[ExpectedGolden],
    fingerprint: HostFingerprint,
    criu_version: str,
    read_ahead_kib: int,
    start_key: str = "",
) -> SnapshotConfig:
    """Describe a dump; ``process`` is that of the container's config.json.

    It is called stateful until the contrary is declared or proved.
    """
    return SnapshotConfig(
        image_reference=image_reference,
        argv=tuple(process["args"]),
        env=tuple(process["env"]),
        workdir=process["cwd"],
        user=user_of(process),
        stop_signal=stop_signal,
        hostname=spec.hostname or spec.name,
        ready=spec.ready,
        ports=tuple(port.container for port in spec.ports),
        volumes=tuple(volume.frozen_as for volume in spec.volumes),
        memory_bytes=spec.memory_bytes,
        cpus=spec.cpus,
        stateful=True,
        verdict=REHEARSED if goldens else READY_CHECKED,
        goldens=tuple(_golden(golden) for golden in goldens),
        fingerprint=cast(Mapping[str, JsonValue], fingerprint.to_json()),
        criu_version=criu_version,
        memory_files=_memory_files(dump, built),
        read_ahead_kib=read_ahead_kib,
        upper=True,
        stdio_pipes=dump.descriptors(),
        external_mounts=tuple(ExternalMount(path, path) for path in _EXTERNAL),
        created_ns=time.time_ns(),
        start_key=start_key,
    )


def draft_manifest(
    image: ImageManifest, built: BuiltTree, config: SnapshotConfig, store: Store
) -> SnapshotManifest:
    """Return the manifest as the rehearsal uses it: without a start bundle and a signature.

    Raises SnapshotTooLarge, before anything is rehearsed.
    """
    draft = SnapshotManifest(
        config=put_config(config, store),
        bootstrap=built.bootstrap,
        devices=built.devices,
        bundle=None,
        bundle_index=None,
        subject=image.descriptor(inline=True),
    )
    _readable(draft)
    return draft


def hold_image(writer: Writer, image: ImageManifest) -> None:
    """Store the image's manifest, which may have been removed meanwhile: a lease holds by it."""
    descriptor = image.descriptor(inline=True)
    writer.store.blobs.put(descriptor.digest, descriptor.data or b"")


def put_config(config: SnapshotConfig, store: Store) -> Descriptor:
    """Store the configuration and describe it, its content inline."""
    content = config.to_bytes()
    descriptor = Descriptor.of(media_types.SNAPSHOT_CONFIG, content, inline=True)
    store.blobs.put(descriptor.digest, content)
    return descriptor


def publish(writer: Writer, name: ReferenceName, manifest: SnapshotManifest) -> None:
    """Write the manifest and move the reference to it, from wherever it was.

    Raises SnapshotTooLarge (or ManifestInvalid) for one that nobody could read again; Conflict if
    somebody else moves it at the same time; Collected or LeaseLost if something that it needs is
    gone.
    """
    blobs = writer.store.blobs
    content = _readable(manifest)
    descriptor = manifest.descriptor()
    blobs.put(manifest.subject.digest, manifest.subject.data or b"")
    blobs.put(descriptor.digest, content)
    move(writer, name, descriptor, manifest.blobs())


def _readable(manifest: SnapshotManifest) -> bytes:
    """Return the manifest's bytes, once they are known to be what every restore will accept."""
    content = manifest.to_bytes()
    if len(content) > MAX_BYTES:
        raise SnapshotTooLarge(len(content))
    parse_manifest(content)
    return content


def _memory_files(dump: DumpDirectory, built: BuiltTree) -> tuple[MemoryFile, ...]:
    """Return where each memory file lies in the device; an empty one lies nowhere."""
    paths = [f"{DUMP}/{name}" for name in dump.memory_files()]
    placed = [(path, built.extents.get(path.encode())) for path in paths]
    return tuple(
        MemoryFile(path, extent.offset, extent.length)
        for path, extent in placed
        if extent is not None
    )


def _golden(golden: ExpectedGolden) -> Golden:
    request = golden.request
    value: dict[str, JsonValue]
    expect: dict[str, JsonValue] = {
        "mode": request.expect.mode,
        "paths": list(request.expect.paths),
        "tolerance": request.expect.tolerance,
    }
    if request.exec:
        value = {"exec": list(request.exec), "expect": expect}
    else:
        value = {
            "method": request.method,
            "path": request.path,
            "port": request.port,
            "headers": dict(request.headers),
            "body": request.body.decode(errors="replace"),
            "expect": expect,
        }
    return Golden(value, _expected(golden.answer))


def _expected(answer: Answer) -> ExpectedAnswer:
    body = answer.body
    if len(body) <= INLINE_ANSWER_BYTES:
        return ExpectedAnswer(answer.status, body=body)
    return ExpectedAnswer(answer.status, body_digest=Digest.of(body), body_bytes=len(body))
