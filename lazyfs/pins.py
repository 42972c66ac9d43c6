"""Pinned images: what the cache keeps whatever its quota. A file each, so that pinning needs no
agent.

    ROOT/pins/<SHA-256 of store and reference, hex>.json

A pin holds the image that its reference pointed to when it was pinned; pinning the reference again
moves it. Files are placed by one rename; who writes ROOT may pin.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotstart.core.digest import Digest
from hotstart.core.errors import NotFound
from hotstart.core.log import get_logger
from hotstart.store.layers import raw_digest
from hotstart.store.manifest import Manifest, SnapshotManifest

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned image or snapshot; ``names`` are its devices and bootstraps in the cache, hex."""

    store_url: str
    reference: str
    digest: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, store_url: str, reference: str, manifest: Manifest) -> Pin:
        """Pin everything that mounting the manifest needs; of a snapshot its image's too."""
        parts = [manifest]
        if isinstance(manifest, SnapshotManifest):
            parts.append(manifest.image())
        names = [raw_digest(part.bootstrap).hex for part in parts]
        names += [device.device_id for part in parts for device in part.devices]
        digest = str(manifest.descriptor().digest)
        return cls(store_url, reference, digest, tuple(dict.fromkeys(names)))

    def to_json(self) -> dict[str, Any]:
        """Return the file's form."""
        return {
            "version": 1,
            "store": self.store_url,
            "reference": self.reference,
            "digest": self.digest,
            "names": list(self.names),
        }


class Pins:
    """The pins of one root."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "pins"

    def put(self, pin: Pin) -> None:
        """Keep an image from now on, in place of what was pinned by that reference."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd, staged = tempfile.mkstemp(dir=self._directory, prefix=".staged-")
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(pin.to_json(), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, self._path(pin.store_url, pin.reference))
        except BaseException:
            os.unlink(staged)
            raise

    def drop(self, store_url: str, reference: str) -> None:
        """Pin no more. Raises NotFound."""
        try:
            self._path(store_url, reference).unlink()
        except FileNotFoundError as err:
            raise NotFound(f"{reference} is not pinned", "see hotstart images") from err

    def all(self) -> list[Pin]:
        """Return every pin; a file that is none is logged and keeps nothing."""
        return list(self._read())

    def names(self) -> set[str]:
        """Return the devices and bootstraps that must stay, in hex."""
        return {name for pin in self._read() for name in pin.names}

    def _read(self) -> Iterator[Pin]:
        for path in sorted(self._directory.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                try:
                    value = json.loads(path.read_bytes())
                    words = value["store"], value["reference"], value["digest"]
                    yield Pin(*words, names=tuple(value["names"]))
                except (ValueError, KeyError, TypeError) as err:
                    log.warning("pin_unreadable", path=path, reason=repr(err))

    def _path(self, store_url: str, reference: str) -> Path:
        name = Digest.of(json.dumps([store_url, reference]).encode()).hex
        return self._directory / f"{name}.json"
