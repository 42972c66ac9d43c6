"""Images as other tools save them: OCI layouts and docker archives, in a directory or a tar.

``read_oci`` follows index.json to one manifest (by tag if there are several, by platform through
image indexes), ``read_docker`` manifest.json. Both return the config and the layers, lowest first,
with the digests that the spool verifies before a layer is read (image-spec: image-layout.md,
manifest.md, config.md; docker: the image's v1.2 save format).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from image_builder.blob_files import BlobFiles, Json, read_document, read_list
from image_builder.errors import SourceInvalid
from image_builder.layer_spool import LayerBlob, Spool

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
_REF_NAME = "org.opencontainers.image.ref.name"
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class SavedImage:
    """A config document and the layers, lowest first."""

    config: Json
    layers: tuple[LayerBlob, ...]


def host_architecture() -> str:
    """Return this machine's architecture in OCI's words."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def read_oci(files: BlobFiles, spool: Spool, *, tag: str, wanted: str | None) -> SavedImage:
    """Read an OCI layout. Raises SourceInvalid, DigestMismatch, LimitExceeded."""
    index = read_document(files, "index.json", spool)
    _check_schema(index, files.name)
    entries = list(_objects(index, "manifests", files.name))
    names = {_ref_name(entry) for entry in entries}
    listed = ", ".join(sorted(name or "(unnamed)" for name in names)) or "none"
    if tag:
        entries = [entry for entry in entries if _ref_name(entry) == tag]
        if not entries:
            raise SourceInvalid(
                files.name,
                f"the layout has no image named {tag!r}; there is: {listed}",
                "append :NAME of one of them",
            )
    elif len(names) > 1:
        raise SourceInvalid(
            files.name, f"the layout holds several images: {listed}", "append :NAME of one of them"
        )
    manifest = _choose(files, spool, entries, wanted or f"linux/{host_architecture()}", _MAX_DEPTH)
    config_entry = manifest.get("config")
    if not isinstance(config_entry, dict):
        raise SourceInvalid(files.name, "the image's manifest has no config")
    config = _blob_document(files, spool, config_entry)
    _check_platform(config, wanted, files.name)
    entries = list(_objects(manifest, "layers", files.name))
    diff_ids = _diff_ids(config, len(entries), files.name)
    layers = []
    for entry, diff_id in zip(entries, diff_ids, strict=True):
        digest = _digest(entry, files.name)
        stored = files.open(_blob_path(digest))
        _check_size(entry, stored.size, files.name)
        layers.append(LayerBlob(stored, digest, diff_id))
    return SavedImage(config, tuple(layers))


def read_docker(files: BlobFiles, spool: Spool, *, tag: str, wanted: str | None) -> SavedImage:
    """Read what ``docker save`` and others write. Raises as ``read_oci`` does."""
    images = [item for item in read_list(files, "manifest.json", spool) if isinstance(item, dict)]
    listed = ", ".join(sorted(name for image in images for name in _tags(image))) or "(unnamed)"
    if tag:
        images = [image for image in images if _full_name(tag) in map(_full_name, _tags(image))]
    if len(images) != 1:
        raise SourceInvalid(
            files.name,
            f"the archive holds {len(images)} images{f' named {tag!r}' if tag else ''}; "
            f"there is: {listed}",
            "save one image, or append :NAME:TAG of one of them",
        )
    config_path, paths = images[0].get("Config"), images[0].get("Layers")
    if not isinstance(config_path, str) or not isinstance(paths, list):
        raise SourceInvalid(files.name, "manifest.json has no Config or no Layers")
    config = read_document(files, config_path, spool, _named_digest(config_path))
    _check_platform(config, wanted, files.name)
    diff_ids = _diff_ids(config, len(paths), files.name)
    layers = tuple(
        LayerBlob(files.open(str(path)), None, diff_id)
        for path, diff_id in zip(paths, diff_ids, strict=True)
    )
    return SavedImage(config, layers)


def _tags(image: Json) -> list[str]:
    tags = image.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _full_name(name: str) -> str:
    """Return what ``name`` is short for: some tools write ``docker.io/library/app:1`` for app:1."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _choose(files: BlobFiles, spool: Spool, entries: list[Json], wanted: str, depth: int) -> Json:
    """Return the manifest for the platform, looking into image indexes."""
    if depth == 0:
        raise SourceInvalid(files.name, "image indexes are nested too deeply")
    images = [entry for entry in entries if _is_image(entry)]
    matching = [entry for entry in images if _platform(entry) in ("", wanted)] or [
        entry for entry in images if f"{_platform(entry)}/".startswith(f"{wanted}/")
    ]
    if not matching:
        found = ", ".join(sorted({_platform(entry) for entry in images})) or "none"
        raise SourceInvalid(
            files.name,
            f"no image for {wanted}; there is: {found}",
            "choose another platform, or save the image for this one",
        )
    document = _blob_document(files, spool, matching[0])
    _check_schema(document, files.name)
    if "manifests" in document:
        inner = list(_objects(document, "manifests", files.name))
        return _choose(files, spool, inner, wanted, depth - 1)
    return document


def _is_image(entry: Json) -> bool:
    """Leave out attestations and signatures, which lie beside images in an index."""
    annotations = entry.get("annotations")
    marks = annotations if isinstance(annotations, dict) else {}
    is_attestation = "vnd.docker.reference.type" in marks or _platform(entry) == "unknown/unknown"
    return not is_attestation and not entry.get("artifactType")


def _platform(entry: Json) -> str:
    value = entry.get("platform")
    if not isinstance(value, dict):
        return ""
    words = [value.get("os"), value.get("architecture"), value.get("variant")]
    return "/".join(str(word) for word in words if word)


def _ref_name(entry: Json) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(_REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _check_schema(document: Json, name: str) -> None:
    """Refuse what a later version of the format may mean otherwise (image-spec: always 2)."""
    version = document.get("schemaVersion", 2)
    if version != 2:
        problem = f"schemaVersion is {str(version)[:40]}, expected 2"
        raise SourceInvalid(name, problem, "save the image in the first format of OCI")


def _check_platform(config: Json, wanted: str | None, name: str) -> None:
    """Refuse a config that says it is for another platform than ``wanted``, or this machine's."""
    asked = wanted or f"linux/{host_architecture()}"
    system, architecture, *_ = *asked.split("/"), ""
    given = (config.get("os") or system, config.get("architecture") or architecture)
    if given != (system, architecture):
        found = "/".join(map(str, given))
        raise SourceInvalid(
            name,
            f"the image is for {found[:80]}, not for {asked}",
            "save the one for this platform, or ask for the other by --platform",
        )


def _check_size(entry: Json, size: int, name: str) -> None:
    if entry.get("size") != size:
        said = str(entry.get("size"))[:40]
        raise SourceInvalid(
            name, f"{str(entry.get('digest'))[:80]} has {size} bytes, its descriptor says {said}"
        )


def _blob_document(files: BlobFiles, spool: Spool, entry: Json) -> Json:
    digest = _digest(entry, files.name)
    _check_size(entry, files.open(_blob_path(digest)).size, files.name)
    return read_document(files, _blob_path(digest), spool, digest)


def _blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _digest(entry: Json, name: str) -> Digest:
    return _parsed(entry.get("digest"), name)


def _parsed(text: object, name: str) -> Digest:
    try:
        return Digest.parse(str(text))
    except UserError as err:
        raise SourceInvalid(name, f"an entry has no usable digest: {err}") from err


def _named_digest(path: str) -> Digest | None:
    """Return the digest in a file name, as docker and skopeo name configs."""
    found = re.fullmatch(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?", path)
    return Digest(found[1]) if found else None


def _objects(document: Json, key: str, name: str) -> Iterator[Json]:
    value = document.get(key)
    if not isinstance(value, list):
        raise SourceInvalid(name, f"no list of {key}")
    for item in value:
        if not isinstance(item, dict):
            raise SourceInvalid(name, f"an entry of {key} is not an object")
        yield item


def _diff_ids(config: Json, count: int, name: str) -> list[Digest]:
    rootfs = config.get("rootfs")
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(listed, list) or len(listed) != count:
        raise SourceInvalid(
            name, f"the config lists {len(listed or [])} layers, the manifest {count}"
        )
    return [_parsed(text, name) for text in listed]
