"""Object list: the objects that a device of weights is made of, in the place of a chunk table.

Canonical JSON (docs/formats/object-list.md). Its SHA-256 is the device's identity: the same objects
with the same ETags give the same device. Objects follow each other in the device, each from a page
boundary on, in the order of their keys' bytes; each is fetched in fixed pieces. Pure.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hotstart.core import canonical_json
from hotstart.core.span import Span, align_up
from hotstart.store.format_errors import FormatInvalid, check_version
from hotstart.store.pinned_object import PinnedObject

VERSION = 1
PIECE_BYTES = 256 << 10
"""What is fetched and verified as one. Neighbours are fetched by one request."""
MAX_OBJECTS = 1_000_000
MAX_DEVICE_BYTES = 1 << 43
"""EROFS counts blocks of a device in 32 bits; half of that leaves room for its own."""


class ObjectListInvalid(FormatInvalid):
    """Bytes are not an object list."""

    format_name = "object list"


@dataclass(frozen=True, slots=True)
class DevicePiece:
    """One piece: its number in the device, its object, and where it lies; in bytes."""

    number: int
    pinned: PinnedObject
    offset: int
    device_offset: int

    @property
    def stored_length(self) -> int:
        """Bytes of the object."""
        return min(PIECE_BYTES, self.pinned.size - self.offset)

    @property
    def length(self) -> int:
        """Bytes of the device: whole pages, behind the object's end zeros."""
        return align_up(self.stored_length)


class ObjectList:
    """The objects of one device; none is empty."""

    def __init__(self, url: str, objects: Iterable[tuple[str, str, int]]) -> None:
        """Take (key, ETag, size) of each object below the bucket ``url``, in any order.

        Raises ObjectListInvalid.
        """
        self.url = url
        ordered = sorted(objects, key=lambda one: one[0].encode("utf-8", "surrogatepass"))
        self.objects = tuple(PinnedObject(n, *one) for n, one in enumerate(ordered))
        self.starts: list[int] = []
        self._first_pieces: list[int] = []
        position = pieces = 0
        for one in self.objects:
            _check(one)
            self.starts.append(position)
            self._first_pieces.append(pieces)
            position += align_up(one.size)
            pieces += _pieces(one)
        self.device_size = position
        self.piece_count = pieces
        if len({one.key for one in self.objects}) != len(self.objects):
            raise ObjectListInvalid("a key is there twice")
        if position > MAX_DEVICE_BYTES or len(self.objects) > MAX_OBJECTS:
            raise ObjectListInvalid(
                f"{len(self.objects)} objects of {position} bytes are more than one mount can "
                f"have ({MAX_OBJECTS} objects, {MAX_DEVICE_BYTES} bytes)"
            )

    def encode(self) -> bytes:
        """Return the document."""
        objects = [[one.key, one.etag, one.size] for one in self.objects]
        return canonical_json.encode({"version": VERSION, "url": self.url, "objects": objects})

    @classmethod
    def decode(cls, content: bytes) -> ObjectList:
        """Read ``encode``'s bytes. Raises ObjectListInvalid or FormatVersionUnknown."""
        try:
            value = json.loads(content)
            check_version("object list", value["version"], (VERSION,))
            decoded = cls(value["url"], [(key, etag, size) for key, etag, size in value["objects"]])
            again = decoded.encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise ObjectListInvalid(f"not an object list: {err!r}"[:200]) from err
        if again != content:
            raise ObjectListInvalid("not in canonical form")
        return decoded

    def between(self, span: Span) -> Iterator[DevicePiece]:
        """Yield the pieces that hold bytes of ``span`` of the device, in order."""
        number = max(0, bisect_right(self.starts, span.offset) - 1)
        while number < len(self.objects) and self.starts[number] < span.end:
            one, start = self.objects[number], self.starts[number]
            first = max(0, span.offset - start) // PIECE_BYTES
            last = min(_pieces(one), -(-(span.end - start) // PIECE_BYTES))
            for piece in range(first, last):
                offset = piece * PIECE_BYTES
                yield DevicePiece(self._first_pieces[number] + piece, one, offset, start + offset)
            number += 1

    def piece_number(self, pinned: PinnedObject, offset: int) -> int:
        """Return the number of the piece at ``offset`` of an object."""
        return self._first_pieces[pinned.number] + offset // PIECE_BYTES


def _pieces(one: PinnedObject) -> int:
    return -(-one.size // PIECE_BYTES)


def _check(one: PinnedObject) -> None:
    if not (isinstance(one.key, str) and isinstance(one.etag, str) and one.key and one.etag):
        raise ObjectListInvalid(f"object {one.number} has no key or no ETag")
    if not isinstance(one.size, int) or isinstance(one.size, bool) or one.size <= 0:
        raise ObjectListInvalid(f"{one} has {one.size!r} bytes")
