"""Objects of a bucket that is not a store of ours, as values, and how reading them fails.

An object is pinned to the ETag that it had when it was listed: it is read as that or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from hotstart.core.errors import IntegrityError, NotFound


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One object as a listing tells of it: its key below the prefix, ETag without quotes."""

    key: str
    etag: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class PinnedObject:
    """What is read of: ``number`` is its place in the list of its device; ``size`` in bytes."""

    number: int
    key: str
    etag: str
    size: int

    def __str__(self) -> str:
        return f"object {self.key!r}"


class ObjectChanged(IntegrityError):
    """An object is another one than when it was listed."""

    def __init__(self, url: str, pinned: PinnedObject, found: str) -> None:
        super().__init__(
            f"{url}: {pinned} has changed since it was mounted (ETag {pinned.etag!r}, now {found}):"
            " unmount it and mount it again to read what is there now"
        )
        self.url = url
        self.key = pinned.key


class ObjectGone(NotFound):
    """An object that was listed is there no more."""

    def __init__(self, url: str, pinned: PinnedObject) -> None:
        super().__init__(
            f"{url}: {pinned} is there no more", "unmount, and mount again what is there now"
        )
        self.url = url
        self.key = pinned.key
