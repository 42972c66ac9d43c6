"""BlobStore: immutable bytes named by their digest, and every way a store can fail.

A blob is invisible until put() has returned and never changes after. Any method may be called
from any thread. Backends and wrappers (verify, retry, limit) have this one protocol and pass the
contract suite in tests/contracts/blob_store.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError, NotFound, Unavailable, UserError
from hotstart.core.span import Span

Content: TypeAlias = bytes | memoryview
"""What a store returns: read-only bytes, possibly without a copy."""

SMALL_BLOB = 1 << 20
"""Bytes up to which putting a blob again is cheaper than asking whether it is there."""

Writable: TypeAlias = bytes | bytearray | memoryview
"""What a store takes."""


class BlobNotFound(NotFound):
    """The store holds no such blob."""

    def __init__(self, store_url: str, digest: Digest) -> None:
        super().__init__(
            f"{store_url}: no blob {digest}",
            "was the image removed, or is this another store? put the blob back, or build it again",
        )
        self.store_url = store_url
        self.digest = digest


class SpanOutside(IntegrityError):
    """A span reaches beyond the end of its blob, which is shorter than whatever names it says."""

    def __init__(self, store_url: str, digest: Digest, span: Span) -> None:
        super().__init__(f"{store_url}: blob {digest} has no bytes {span.offset}..{span.end}")
        self.store_url = store_url
        self.digest = digest
        self.span = span


class StoreMissing(NotFound):
    """There is no store at the URL."""

    def __init__(self, store_url: str, what: str = "there is no store here") -> None:
        super().__init__(f"{store_url}: {what}", "check --store, or build first")
        self.store_url = store_url


class StoreUnavailable(Unavailable):
    """The store did not answer as it should (unreachable, timeout, 5xx, short body)."""

    def __init__(self, store_url: str, what: str) -> None:
        super().__init__(f"{store_url}: {what}")
        self.store_url = store_url


class StoreBusy(StoreUnavailable):
    """The store asked for fewer requests (503 SlowDown, 429): whoever asks again waits longer."""


class StoreDenied(UserError):
    """The store refused these credentials (403), or the file system refused this user."""

    def __init__(self, store_url: str, what: str, hint: str = "check the credentials") -> None:
        super().__init__(f"{store_url}: access denied: {what}", hint)
        self.store_url = store_url


class StoreReadOnly(UserError):
    """The store's file system does not take writes."""

    def __init__(self, store_url: str) -> None:
        super().__init__(f"{store_url}: the store is read-only", "use a store that takes writes")
        self.store_url = store_url


class StoreFull(UserError):
    """The store has no space left; nothing was written."""

    def __init__(self, store_url: str) -> None:
        super().__init__(f"{store_url}: no space left in the store", "free space, then try again")
        self.store_url = store_url


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob, its size in bytes, and when it was last put, by the store's own clock."""

    digest: Digest
    size: int
    modified_ns: int


class BlobStore(Protocol):
    """Immutable bytes named by their digest.

    Every method may raise StoreUnavailable (worth retrying), StoreDenied or another UserError.
    """

    @property
    def url(self) -> str:
        """Where the store is, for messages and for reopening it."""
        ...

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return exactly the bytes of ``span`` (default: all of the blob).

        Raises BlobNotFound, or SpanOutside when the blob ends before the span does. A short
        answer from below is StoreUnavailable, never a short return. Only the verifying wrapper
        checks digests, and only of whole reads; spans are verified by whoever knows their digest.
        """
        ...

    def size(self, digest: Digest) -> int:
        """Return the blob's size in bytes. Raises BlobNotFound."""
        ...

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        ...

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``, durably and all at once; storing what is there already is no error.

        What is there already and small (SMALL_BLOB) counts as stored now: its time is renewed.
        What was damaged in its place is replaced; in a bucket a large one only if somebody put an
        object of another size or origin there, since its bytes are not read.
        Raises DigestMismatch if ``content`` is not what ``digest`` names, StoreReadOnly or
        StoreFull; a failed put leaves nothing visible. ``is_checked`` is for a caller who has just
        computed the digest of these very bytes: they are not hashed again.
        """
        ...

    def remove(self, digest: Digest) -> None:
        """Remove the blob. Raises BlobNotFound."""
        ...

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Yield each blob and its size in bytes, in no promised order."""
        ...

    def entries(self) -> Iterator[StoredBlob]:
        """Yield each blob with its size and time, in no promised order."""
        ...
