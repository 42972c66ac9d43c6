"""A wrapper that believes no whole blob it has not hashed.

Spans pass through unchecked: whoever asks for a part knows the part's own digest (chunks, pages
of chunk tables, frames of bundles) and checks that. A whole blob that is wrong is read once more: a
byte may have been flipped on its way.
"""

from __future__ import annotations

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store.blob_store import Content
from hotstart.store.passing import PassingBlobs

log = get_logger(__name__)


class VerifyingBlobs(PassingBlobs):
    """Checks every whole read against its digest; DigestMismatch if it is wrong twice."""

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
