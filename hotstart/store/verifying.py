"""A wrapper that believes no whole blob it has not hashed.

Spans pass through unchecked: whoever asks for a part knows the part's own digest (chunks, pages
of chunk tables, frames of bundles) and checks that. A whole blob that is wrong is read once more: a
byte may have been flipped on its way.
"""

from __future__ import annotations

from collections.abc import Iterator

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content, StoredBlob, Writable

log = get_logger(__name__)


class VerifyingBlobs:
    """Checks every whole read against its digest; DigestMismatch if it is wrong twice."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes; a whole blob only if it is what the digest names."""
        content = self._inner.read(digest, span)
        if span is not None:
            return content
        try:
            digest.check(content, f"{self.url}: blob")
        except DigestMismatch as err:
            log.warning("blob_mismatch", error=err, action="reading it once more")
            content = self._inner.read(digest)
            digest.check(content, f"{self.url}: blob")
        return content

    def size(self, digest: Digest) -> int:
        """Return the size in bytes."""
        return self._inner.size(digest)

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        return self._inner.has(digest)

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``; the backend checks it."""
        self._inner.put(digest, content, is_checked=is_checked)

    def remove(self, digest: Digest) -> None:
        """Remove the blob."""
        self._inner.remove(digest)

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Yield each blob and its size."""
        return self._inner.digests()

    def entries(self) -> Iterator[StoredBlob]:
        """Yield each blob with its size and time."""
        return self._inner.entries()
