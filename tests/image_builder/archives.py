"""Layers and image archives for tests, written by Python's own tarfile."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import zstandard

from image_builder.oci_image import host_architecture


def member(name, *, kind=tarfile.REGTYPE, content=b"", **fields):
    """Return (TarInfo, content); other fields are TarInfo's."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    info.mode = fields.pop("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def directory(name, **fields):
    return member(name, kind=tarfile.DIRTYPE, **fields)


def link(name, target, **fields):
    return member(name, kind=tarfile.SYMTYPE, linkname=target, **fields)


def hard_link(name, target):
    return member(name, kind=tarfile.LNKTYPE, linkname=target)


def layer(*members, form=tarfile.PAX_FORMAT) -> bytes:
    """Return an uncompressed tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def compressed(tar: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(tar, mtime=0)
    return zstandard.compress(tar) if how == "zstd" else tar


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Layout:
    """An OCI layout being put together in memory: path -> bytes."""

    def __init__(self):
        self.files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, content: bytes, **more) -> dict:
        digest = sha256(content)
        self.files[f"blobs/sha256/{digest[7:]}"] = content
        return {
            "mediaType": "application/octet-stream",
            "digest": digest,
            "size": len(content),
        } | more

    def image(self, layers, config=None, how="gzip", **more) -> dict:
        """Add an image and return its descriptor."""
        document = {
            "architecture": more.get("platform", {}).get("architecture", host_architecture()),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(json.dumps(document).encode()),
            "layers": [self.blob(compressed(tar, how)) for tar in layers],
        }
        return self.blob(json.dumps(manifest).encode(), **more)

    def index(self, *entries) -> "Layout":
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        return self

    def write(self, target: Path) -> Path:
        for name, content in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
        return target

    def archive(self, target: Path) -> Path:
        target.write_bytes(layer(*(member(n, content=c) for n, c in self.files.items())))
        return target


def docker_archive(target: Path, layers, config=None, how="plain", tag="app:1") -> Path:
    """Write what ``docker save`` writes."""
    document = json.dumps(
        {
            "architecture": host_architecture(),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in layers]},
        }
    ).encode()
    name = f"{sha256(document)[7:]}.json"
    paths = [f"{number}/layer.tar" for number in range(len(layers))]
    listed = [{"Config": name, "RepoTags": [tag], "Layers": paths}]
    files = [member(name, content=document)]
    files += [
        member(path, content=compressed(tar, how)) for path, tar in zip(paths, layers, strict=True)
    ]
    files.append(member("manifest.json", content=json.dumps(listed).encode()))
    target.write_bytes(layer(*files))
    return target
