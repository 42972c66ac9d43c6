"""The one place where a URL becomes a store, with its wrappers in their order.

    directory   RelocatingBlobs(VerifyingBlobs(DirectoryBlobs))
    s3          RelocatingBlobs(VerifyingBlobs(RetryingBlobs(LimitingBlobs(S3Blobs))))

URLs: a path or ``file:///path``; ``s3://bucket/prefix`` with an optional query
``?endpoint=http://host:port&region=name``. Opening is quick and sends no request; a store holds
nothing that needs closing and may be shared by threads.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from hotstart.core.errors import UserError
from hotstart.store.blob_store import BlobStore, StoreMissing
from hotstart.store.directory import DirectoryBlobs, DirectoryReferences, prepare_directory
from hotstart.store.directory_leases import DirectoryLeases
from hotstart.store.lease_objects import LeaseObjects
from hotstart.store.limiting import LimitingBlobs
from hotstart.store.references import ReferenceStore
from hotstart.store.relocating import RelocatingBlobs
from hotstart.store.retrying import (
    RetryingBlobs,
    RetryingLeases,
    RetryingReferences,
    RetryPolicy,
)
from hotstart.store.verifying import VerifyingBlobs

_STORE_NAMES = {"blobs", "references", "leases", "staging"}
IN_FLIGHT = 64
"""Requests to one S3 store at a time; fetchers use fewer, this only stops a flood."""


@dataclass(frozen=True, slots=True)
class Store:
    """Blobs, references and leases of one place; ``url`` opens the same place again."""

    url: str
    blobs: BlobStore
    references: ReferenceStore
    leases: LeaseObjects


class StoreUrlInvalid(UserError):
    """A text is not the URL of a store."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"{url}: {why}", "use a directory, file:///path or s3://bucket/prefix[?endpoint=URL]"
        )
        self.url = url


def open_store(url: str, *, create: bool = True, retry: RetryPolicy | None = None) -> Store:
    """Open the store at ``url``; with ``create`` make what is missing when it is first written.

    Raises StoreUrlInvalid, StoreMissing, or another store error.
    """
    if not url or "\0" in url:
        raise StoreUrlInvalid(repr(url), "names nothing")
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _open_directory(Path(url), create=create)
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc or not parts.path or parts.query or parts.fragment:
            raise StoreUrlInvalid(url, "not the URL of a local directory")
        return _open_directory(Path(unquote(parts.path)), create=create)
    if scheme == "s3":
        return _open_s3(url, create=create, retry=retry or RetryPolicy())
    raise StoreUrlInvalid(url, f"unknown kind of store {scheme!r}")


def preload_client(url: str) -> None:
    """Import what opening ``url`` needs: for daemons, whose first request would wait for it."""
    if url.startswith("s3://"):
        import_module("hotstart.store.s3")


def _open_directory(path: Path, *, create: bool) -> Store:
    root = path.absolute()
    url = f"file://{quote(str(root))}"
    prepare_directory(root, url, create=create)
    if not create:
        _refuse_other_directory(root, url)
    references = DirectoryReferences(root, url)
    blobs = RelocatingBlobs(VerifyingBlobs(DirectoryBlobs(root, url)), references)
    return Store(url, blobs, references, DirectoryLeases(root, url))


def _refuse_other_directory(root: Path, url: str) -> None:
    """Raise StoreMissing for a directory of other things; an empty one is an empty store."""
    with suppress(OSError):  # whoever may not list it is told so by what is read
        names = set(os.listdir(root)) - {"lost+found"}
        if names and not names & _STORE_NAMES:
            raise StoreMissing(url, "this directory holds other things and no store")


def _open_s3(url: str, *, create: bool, retry: RetryPolicy) -> Store:
    # Not at the top: the S3 client costs a third of a second that directory stores never pay.
    from hotstart.store.s3 import S3Blobs, S3Bucket, S3References
    from hotstart.store.s3_leases import S3Leases

    bucket = S3Bucket.open(url, create=create)
    limited = LimitingBlobs(S3Blobs(bucket), in_flight=IN_FLIGHT)
    references = RetryingReferences(S3References(bucket), retry)
    blobs = RelocatingBlobs(VerifyingBlobs(RetryingBlobs(limited, retry)), references)
    return Store(bucket.url, blobs, references, RetryingLeases(S3Leases(bucket), retry))
