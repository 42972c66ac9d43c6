"""The layers of a manifest: bootstrap, then per device a chunk table and its packs.

Facts that a reader needs before it fetches anything (sizes, the digest of a table's head) are
annotations of the layer. This module turns them into typed values and back; it knows nothing of
the manifest around them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.core.span import PAGE
from hotstart.store import media_types
from hotstart.store.bootstrap_head import MAX_IMAGE_BYTES
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatInvalid, check_media_type
from hotstart.store.json_document import MAX_NUMBER, Fields

MAX_DEVICE_BYTES = 1 << 44
"""32 bits of blocks: what EROFS can address in one device."""


class ManifestInvalid(FormatInvalid):
    """Bytes are not a manifest of ours."""

    format_name = "manifest"


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """One device of an image: its chunk table, its size in bytes, every pack the table names.

    ``packs`` are in the order of the table's pack numbers. The first ``head_length`` bytes of
    the table have the digest ``head_digest``, so that the head can be read and verified alone.
    """

    table: Descriptor
    size_bytes: int
    packs: tuple[Descriptor, ...]
    head_length: int
    head_digest: Digest

    @property
    def device_id(self) -> str:
        """The device's identity: the SHA-256 hex of its chunk table."""
        return self.table.digest.hex

    @classmethod
    def of(
        cls,
        table: bytes,
        *,
        size_bytes: int,
        head_length: int,
        packs: Iterable[Descriptor],
    ) -> DeviceDescriptor:
        """Describe the device whose encoded chunk table is ``table``."""
        return cls(
            table=Descriptor.of(media_types.CHUNK_TABLE, table),
            size_bytes=size_bytes,
            packs=tuple(packs),
            head_length=head_length,
            head_digest=Digest.of(memoryview(table)[:head_length]),
        )


def bootstrap_descriptor(stored: bytes, raw: bytes | bytearray) -> Descriptor:
    """Describe a bootstrap: ``stored`` is the zstd frame around ``raw``."""
    annotations = {
        media_types.RAW_SIZE: str(len(raw)),
        media_types.RAW_DIGEST: str(Digest.of(raw)),
    }
    return Descriptor.of(media_types.BOOTSTRAP, stored, annotations)


def raw_size(bootstrap: Descriptor) -> int:
    """Return the bootstrap's size in bytes after decompression. Raises ManifestInvalid."""
    return _number(bootstrap, media_types.RAW_SIZE, MAX_NUMBER)


def raw_digest(bootstrap: Descriptor) -> Digest:
    """Return the bootstrap's digest after decompression. Raises ManifestInvalid."""
    return _digest(bootstrap, media_types.RAW_DIGEST)


def check_bootstrap(bootstrap: Descriptor) -> None:
    """Raise ManifestInvalid unless the layer is a bootstrap of a fit size with its raw digest."""
    if bootstrap.media_type != media_types.BOOTSTRAP:
        raise ManifestInvalid(f"the first layer is {bootstrap.media_type[:100]!r}, no bootstrap")
    if max(raw_size(bootstrap), bootstrap.size) > MAX_IMAGE_BYTES:
        raise ManifestInvalid(
            f"a bootstrap of {raw_size(bootstrap)} bytes, too large to be mounted"
        )
    raw_digest(bootstrap)


def device_layers(devices: Iterable[DeviceDescriptor]) -> list[Descriptor]:
    """Return the layers of all devices, each chunk table followed by its packs."""
    layers: list[Descriptor] = []
    for number, device in enumerate(devices):
        annotations = {
            media_types.DEVICE_NUMBER: str(number),
            media_types.DEVICE_SIZE: str(device.size_bytes),
            media_types.HEAD_LENGTH: str(device.head_length),
            media_types.HEAD_DIGEST: str(device.head_digest),
        }
        table = device.table
        layers.append(Descriptor(table.media_type, table.digest, table.size, annotations))
        layers.extend(device.packs)
    return layers


class LayerReader:
    """Takes the layers of a parsed manifest one by one, in their fixed order.

    A layer of another version is named as such before anything is said of the order.
    """

    def __init__(self, fields: Fields) -> None:
        layers = [Descriptor.from_json(item, ManifestInvalid) for item in fields.each("layers")]
        for layer in layers:
            check_media_type(layer.media_type, media_types.LAYERS)
        self._left = layers[::-1]

    def bootstrap(self) -> Descriptor:
        """Return the first layer."""
        if not self._left:
            raise ManifestInvalid("there are no layers")
        check_bootstrap(self._left[-1])
        return self._left.pop()

    def devices(self) -> tuple[DeviceDescriptor, ...]:
        """Return every device, each with the packs that follow its chunk table."""
        devices: list[DeviceDescriptor] = []
        while (table := self.optional(media_types.CHUNK_TABLE)) is not None:
            devices.append(self._device(table, len(devices)))
        return tuple(devices)

    def optional(self, media_type: str) -> Descriptor | None:
        """Return the next layer if it has this type."""
        if self._left and self._left[-1].media_type == media_type:
            return self._left.pop()
        return None

    def finish(self) -> None:
        """Refuse layers that nobody took."""
        if self._left:
            raise ManifestInvalid(f"layer of type {self._left[-1].media_type[:100]!r} out of place")

    def _device(self, layer: Descriptor, number: int) -> DeviceDescriptor:
        if _number(layer, media_types.DEVICE_NUMBER, MAX_NUMBER) != number:
            raise ManifestInvalid(f"chunk table {number} says it is of another device")
        size_bytes = _number(layer, media_types.DEVICE_SIZE, MAX_NUMBER)
        if size_bytes > MAX_DEVICE_BYTES:
            raise ManifestInvalid(f"device {number} has {size_bytes} bytes, too many for an image")
        if size_bytes % PAGE:
            raise ManifestInvalid(f"device {number} has {size_bytes} bytes, not a whole page")
        if len(layer.annotations) != 4 or layer.data is not None:
            raise ManifestInvalid(f"chunk table {number} has unknown annotations or inline data")
        packs: list[Descriptor] = []
        while (pack := self.optional(media_types.PACK)) is not None:
            packs.append(pack)
        return DeviceDescriptor(
            table=Descriptor(layer.media_type, layer.digest, layer.size),
            size_bytes=size_bytes,
            packs=tuple(packs),
            head_length=_number(layer, media_types.HEAD_LENGTH, layer.size),
            head_digest=_digest(layer, media_types.HEAD_DIGEST),
        )


def _number(layer: Descriptor, key: str, highest: int) -> int:
    text = layer.annotations.get(key, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and str(int(text)) == text):
        raise ManifestInvalid(f"annotation {key} is {text[:40]!r}, expected a number")
    value = int(text)
    if value > highest:
        raise ManifestInvalid(f"annotation {key} is {value}, at most {highest} is possible")
    return value


def _digest(layer: Descriptor, key: str) -> Digest:
    try:
        return Digest.parse(layer.annotations.get(key, ""))
    except UserError as err:
        raise ManifestInvalid(f"annotation {key}: {err}") from err
