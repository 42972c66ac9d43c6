"""A wrapper that keeps the number of requests in flight below a limit.

Too many connections cost CPU and memory and win nothing; callers may have as many threads as they
like. Waiting is first come, first served only as far as the interpreter's locks are.
"""

from __future__ import annotations

import threading

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content, Writable
from hotstart.store.passing import PassingBlobs


class LimitingBlobs(PassingBlobs):
    """Lets at most ``in_flight`` calls through at a time; listing is not counted."""

    def __init__(self, inner: BlobStore, *, in_flight: int) -> None:
        super().__init__(inner)
        self._slots = threading.BoundedSemaphore(in_flight)

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes, once a slot is free."""
        with self._slots:
            return self._inner.read(digest, span)

    def size(self, digest: Digest) -> int:
        """Return the size in bytes, once a slot is free."""
        with self._slots:
            return self._inner.size(digest)

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there, once a slot is free."""
        with self._slots:
            return self._inner.has(digest)

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``, once a slot is free."""
        with self._slots:
            self._inner.put(digest, content, is_checked=is_checked)

    def remove(self, digest: Digest) -> None:
        """Remove the blob, once a slot is free."""
        with self._slots:
            self._inner.remove(digest)
