"""Descriptor: what a blob is and where it is found; it carries no bytes unless ``data`` is set.

The JSON form is OCI's (image-spec, descriptor.md): mediaType, digest, size, annotations, data.
``data`` holds small content inline (base64 in JSON), so that one read brings several documents.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hotstart.core.digest import Digest
from hotstart.store.format_errors import FormatInvalid
from hotstart.store.json_document import Fields, JsonValue


class DescriptorInvalid(FormatInvalid):
    """A descriptor has a wrong shape, or its inline data is not what it names."""

    format_name = "descriptor"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Pointer to a blob. ``size`` is in bytes; ``data``, if set, is exactly the blob's content."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    data: bytes | None = None

    @classmethod
    def of(
        cls,
        media_type: str,
        content: bytes | bytearray | memoryview,
        annotations: Mapping[str, str] | None = None,
        *,
        inline: bool = False,
    ) -> Descriptor:
        """Describe ``content``; with ``inline`` carry it as well."""
        data = bytes(content) if inline else None
        size = memoryview(content).nbytes
        return cls(media_type, Digest.of(content), size, dict(annotations or {}), data)

    def without_data(self) -> Descriptor:
        """Return the same pointer without the content."""
        return replace(self, data=None)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the OCI JSON form; empty annotations and absent data are left out."""
        value: dict[str, JsonValue] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.data is not None:
            value["data"] = base64.b64encode(self.data).decode()
        return value

    @classmethod
    def from_json(
        cls, value: object, invalid: type[FormatInvalid] = DescriptorInvalid
    ) -> Descriptor:
        """Read the OCI JSON form; inline data must match size and digest. Raises ``invalid``."""
        fields = value if isinstance(value, Fields) else Fields(value, "descriptor", invalid)
        descriptor = cls(
            media_type=fields.text("mediaType"),
            digest=fields.digest("digest"),
            size=fields.number("size"),
            annotations=fields.text_mapping("annotations") if fields.has("annotations") else {},
            data=_inline(fields) if fields.has("data") else None,
        )
        fields.finish()
        if descriptor.data is not None:
            _check_inline(descriptor, descriptor.data, fields)
        return descriptor


def _inline(fields: Fields) -> bytes:
    try:
        return base64.b64decode(fields.text("data"), validate=True)
    except (binascii.Error, ValueError) as err:
        raise fields.wrong("data", "is not base64") from err


def _check_inline(descriptor: Descriptor, data: bytes, fields: Fields) -> None:
    if len(data) != descriptor.size:
        raise fields.wrong("data", f"has {len(data)} bytes, size says {descriptor.size}")
    actual = Digest.of(data)
    if actual != descriptor.digest:
        raise fields.wrong("data", f"has digest {actual}, expected {descriptor.digest}")
