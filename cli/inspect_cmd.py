"""``hotstart inspect``: what an image or snapshot holds. Needs no agent."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.command import HotstartCommand
from cli.output import plain, show, show_json, size
from cli.settings import Settings
from cli.stored import Stored, load
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.layers import DeviceDescriptor, raw_size
from hotstart.store.manifest import ImageManifest, SnapshotManifest
from hotstart.store.references import ReferenceName
from hotstart.store.snapshot_config import SnapshotConfig
from hotstart.store.stack import Store, open_store


@click.command("inspect", cls=HotstartCommand)
@click.argument("reference")
@click.pass_obj
def inspect(settings: Settings, reference: str) -> None:
    """Show what REFERENCE holds: configuration, sizes, chunks; a snapshot's proof."""
    store = open_store(settings.store_url, create=False)
    stored = load(store, ReferenceName.parse(reference))
    document = describe(store, stored)
    if settings.json:
        show_json(document)
    else:
        _show(document)


def describe(store: Store, stored: Stored) -> dict[str, Any]:
    """Return everything there is to say, as a JSON document."""
    manifest = stored.manifest
    blobs = manifest.blobs()
    document: dict[str, Any] = {
        "reference": str(stored.reference.name),
        "kind": stored.kind,
        "digest": str(stored.reference.target.digest),
        "size_bytes": stored.size_bytes,
        "stored_bytes": sum(blob.size for blob in blobs),
        "blobs": len(blobs),
        "bootstrap": {
            "digest": str(manifest.bootstrap.digest),
            "size_bytes": raw_size(manifest.bootstrap),
            "stored_bytes": manifest.bootstrap.size,
        },
        "devices": [_device(store, device) for device in manifest.devices],
        "annotations": dict(manifest.annotations),
    }
    if isinstance(manifest, SnapshotManifest):
        document |= _snapshot(manifest)
    else:
        document["config"] = _image_config(store, manifest)
    return document


def _device(store: Store, device: DeviceDescriptor) -> dict[str, Any]:
    table = ChunkTable.open(store.blobs, device)
    chunks = stored = raw = 0
    for chunk in table:
        chunks += 1
        stored += chunk.stored_length
        raw += chunk.raw
    return {
        "device_id": device.device_id,
        "size_bytes": device.size_bytes,
        "stored_bytes": stored,
        "packs": len(device.packs),
        "chunks": chunks,
        "raw_chunks": raw,
        "average_chunk_bytes": device.size_bytes // chunks if chunks else 0,
    }


def _image_config(store: Store, image: ImageManifest) -> Any:  # noqa: ANN401  # JSON of anyone
    content = bytes(store.blobs.read(image.config.digest))
    image.config.digest.check(content, f"{store.url}: image configuration")
    return json.loads(content)


def _snapshot(snapshot: SnapshotManifest) -> dict[str, Any]:
    config = SnapshotConfig.parse(snapshot.config.data or b"")
    bundle = snapshot.bundle
    key = snapshot.signature.key.hex() if snapshot.signature else None
    return {
        "verdict": config.verdict,
        "stateless": not config.stateful,
        "image": {"reference": config.image_reference, "digest": str(snapshot.subject.digest)},
        "signed_by": key,
        "bundle": None
        if bundle is None
        else {"digest": str(bundle.digest), "stored_bytes": bundle.size},
        "snapshot_config": plain(json.loads(snapshot.config.data or b"{}")),
    }


def _show(document: dict[str, Any]) -> None:
    lines = [
        ("reference", document["reference"]),
        ("kind", document["kind"]),
        ("digest", document["digest"]),
        (
            "size",
            f"{size(document['size_bytes'])}, {size(document['stored_bytes'])} stored"
            + (" with its image" if document["kind"] == "snapshot" else ""),
        ),
        ("bootstrap", size(document["bootstrap"]["size_bytes"])),
    ]
    for number, device in enumerate(document["devices"]):
        lines.append(
            (
                f"device {number}",
                f"{size(device['size_bytes'])} in {device['chunks']} chunks of "
                f"{size(device['average_chunk_bytes'])}, {device['packs']} packs, "
                f"{size(device['stored_bytes'])} stored",
            )
        )
    lines += (
        _snapshot_lines(document) if document["kind"] == "snapshot" else _config_lines(document)
    )
    for name, value in lines:
        show(f"{name:<12}{value}")


def _config_lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    config = (document["config"] or {}).get("config") or {}
    words = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    return [
        ("command", json.dumps(words)),
        ("env", json.dumps(config.get("Env") or [])),
        ("workdir", config.get("WorkingDir") or "/"),
        ("user", config.get("User") or "0"),
    ]


def _snapshot_lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    config = document["snapshot_config"]
    fingerprint = ", ".join(f"{key} {value}" for key, value in config["fingerprint"].items())
    bundle = document["bundle"]
    return [
        ("image", f"{document['image']['reference']} {document['image']['digest']}"),
        ("verdict", document["verdict"]),
        ("kept state", "stateless" if document["stateless"] else "stateful"),
        ("goldens", str(len(config["goldens"]))),
        ("signed by", document["signed_by"] or "nobody"),
        ("bundle", size(bundle["stored_bytes"]) if bundle else "none"),
        ("command", json.dumps(config["argv"])),
        ("ready", config["ready"] or "when started"),
        ("host", fingerprint),
    ]
