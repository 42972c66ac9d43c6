"""LeaseObjects: small named objects of a store that say who is at work, with the store's own times.

Unlike blobs they are replaced in place, and unlike references they belong to one writer each, so
no two ever write one object. ``leases`` gives them their meaning. Times are the store's (the
LastModified of a bucket, the file times of a directory): nanoseconds since the epoch, perhaps in
whole seconds. Only times of one store are ever compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """One object: its name and when it was last written, by the store's clock."""

    name: str
    modified_ns: int


class LeaseObjects(Protocol):
    """Named objects that are written whole. Every method may raise what BlobStore's may."""

    @property
    def url(self) -> str:
        """Where the store is, for messages."""
        ...

    def write(self, name: str, content: bytes) -> int:
        """Create or replace an object, durably; return when that was, by the store's clock."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return an object's content, or None if there is none."""
        ...

    def entries(self) -> list[LeaseEntry]:
        """Return every object. One whose ``write`` has returned before is always among them."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object; an absent one is no error."""
        ...
