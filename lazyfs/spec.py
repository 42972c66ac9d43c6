"""What is mounted, as values: devices and images, and their JSON form for the keeper.

Pure: no I/O. A device is named by the SHA-256 of its chunk table, or of the object list that
weights have in its place; an image by that of its manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.core.span import pages_of
from hotstart.store import media_types
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.manifest import ImageManifest, SnapshotManifest


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device: its chunk table, whose head can be verified alone, and its size in bytes."""

    size_bytes: int
    table: Descriptor
    head_length: int
    head_digest: Digest
    store_url: str

    @classmethod
    def of(cls, device: DeviceDescriptor, store_url: str) -> DeviceSpec:
        """Take what a fill needs to know of a manifest's device."""
        return cls(
            device.size_bytes, device.table, device.head_length, device.head_digest, store_url
        )

    @property
    def device_id(self) -> str:
        """SHA-256 of the chunk table in hex: the device's name everywhere."""
        return self.table.digest.hex

    @property
    def is_weights(self) -> bool:
        """Whether an object list takes the place of the chunk table."""
        return self.table.media_type == media_types.OBJECT_LIST

    @property
    def pages(self) -> int:
        """How many pages the device has."""
        return pages_of(self.size_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return the form that the keeper holds beside the device's descriptors."""
        return {
            "size": self.size_bytes,
            "table": self.table.without_data().to_json(),
            "head_length": self.head_length,
            "head_digest": str(self.head_digest),
            "store": self.store_url,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DeviceSpec:
        """Read ``to_json``'s form. Raises UserError for another shape."""
        try:
            return cls(
                int(value["size"]),
                Descriptor.from_json(value["table"]),
                int(value["head_length"]),
                Digest.parse(value["head_digest"]),
                value["store"],
            )
        except (KeyError, TypeError, ValueError) as err:
            raise UserError(f"not a device specification: {err!r}") from err


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One image or snapshot to mount: its manifest's digest in hex, bootstrap and devices."""

    manifest: str
    bootstrap: Descriptor
    devices: tuple[DeviceSpec, ...]
    store_url: str
    is_vouched: bool = field(default=False, compare=False)
    """A key that this node trusts has signed for it, so its bootstrap need not be walked through.
    Not kept beside a mount."""

    def __post_init__(self) -> None:
        Digest(self.manifest)

    @classmethod
    def of(
        cls,
        manifest: ImageManifest | SnapshotManifest,
        store_url: str,
        *,
        is_vouched: bool = False,
    ) -> MountSpec:
        """Take what a mount needs to know of an image's or a snapshot's manifest."""
        return cls(
            manifest.descriptor().digest.hex,
            manifest.bootstrap,
            tuple(DeviceSpec.of(device, store_url) for device in manifest.devices),
            store_url,
            is_vouched,
        )

    @property
    def is_weights(self) -> bool:
        """Whether it is made of objects of a bucket, and not an image."""
        return any(device.is_weights for device in self.devices)

    def to_json(self) -> dict[str, Any]:
        """Return the form that is kept beside a mount, for whoever adopts it."""
        return {
            "manifest": self.manifest,
            "bootstrap": self.bootstrap.without_data().to_json(),
            "devices": [device.to_json() for device in self.devices],
            "store": self.store_url,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MountSpec:
        """Read ``to_json``'s form. Raises UserError for another shape."""
        try:
            devices = tuple(DeviceSpec.from_json(device) for device in value["devices"])
            bootstrap = Descriptor.from_json(value["bootstrap"])
            return cls(value["manifest"], bootstrap, devices, value["store"])
        except (KeyError, TypeError) as err:
            raise UserError(f"not a mount specification: {err!r}") from err
