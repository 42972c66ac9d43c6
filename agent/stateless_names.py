"""The reserved names under which ``run`` finds stateless snapshots of an image.

A name stands for the image and the way it is started. Whether there are limits belongs to it, how
high they are does not: a restore without ``--memory`` brings the snapshot's own limit, so that a
snapshot of a limited container must never take the place of an unlimited one's.

Names are not signed: whoever may write references can put any snapshot that a trusted key has
signed under one. So what a name leads to is held against what was asked for (``refuse_foreign``).
"""

from __future__ import annotations

from dataclasses import replace

from hotstart.core import canonical_json
from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError
from hotstart.store.references import ReferenceName
from runtime.container_spec import ContainerSpec
from runtime.loaded_image import LoadedImage
from runtime.loaded_snapshot import LoadedSnapshot
from runtime.oci_spec import resolve_process


class SnapshotForeign(IntegrityError):
    """What lies under a reserved name is no stateless snapshot of that image, started that way."""


def start_key(image: LoadedImage, spec: ContainerSpec) -> Digest:
    """Return what names a way to start an image: command, environment, directory and user."""
    process = resolve_process(spec, image.config)
    value = {
        "argv": list(process.argv),
        "env": list(process.env),
        "user": process.user,
        "volumes": sorted(volume.container for volume in spec.volumes),
        "workdir": process.workdir,
    }
    return Digest.of(canonical_json.encode(value))


def stateless_name(image: Digest, key: Digest, spec: ContainerSpec) -> ReferenceName:
    """Return the name of what a container that runs as ``spec`` says leaves behind."""
    asked = {"cpus": spec.cpus, "memory": spec.memory_bytes}
    limits = [name for name, limit in asked.items() if limit is not None]
    if limits:
        key = Digest.of(canonical_json.encode({"limits": limits, "start": key.hex}))
    return ReferenceName.stateless_of(image, key)


def names_for(image: Digest, key: Digest, spec: ContainerSpec) -> list[ReferenceName]:
    """Return the names of what may take a start's place, the best first.

    A snapshot without limits is given those of the start.
    """
    unlimited = replace(spec, memory_bytes=None, cpus=None)
    both = (stateless_name(image, key, spec), stateless_name(image, key, unlimited))
    return list(dict.fromkeys(both))


def refuse_foreign(snapshot: LoadedSnapshot, image: Digest, key: str) -> None:
    """Raise SnapshotForeign unless its signer made it of this image, started so, and stateless.

    ``key`` is the start's ``start_key`` in hex.
    """
    config = snapshot.config
    if snapshot.manifest.subject.digest != image:
        what = "was taken of another image"
    elif config.stateful:
        what = "is stateful"
    elif not config.start_key:
        what = "does not say how its container was started; take it again"
    elif config.start_key != key:
        what = "is of another command, environment, user, directory or volumes"
    else:
        return
    raise SnapshotForeign(f"{snapshot.reference}: what lies under its name {what}")
