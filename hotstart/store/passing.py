"""What a wrapper of blobs does with everything that it does not change: it passes it on."""

from __future__ import annotations

from collections.abc import Iterator

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content, StoredBlob, Writable


class PassingBlobs:
    """Blobs as ``inner`` has them; wrappers change some of the methods."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes."""
        return self._inner.read(digest, span)

    def size(self, digest: Digest) -> int:
        """Return the size in bytes."""
        return self._inner.size(digest)

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob itself is there."""
        return self._inner.has(digest)

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``; the backend checks it unless it ``is_checked``."""
        self._inner.put(digest, content, is_checked=is_checked)

    def remove(self, digest: Digest) -> None:
        """Remove the blob itself."""
        self._inner.remove(digest)

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Yield each blob and its size."""
        return self._inner.digests()

    def entries(self) -> Iterator[StoredBlob]:
        """Yield each blob with its size and time."""
        return self._inner.entries()
