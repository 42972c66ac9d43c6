"""Objects of a bucket that is not a store of ours, each pinned to the ETag that it had when listed.

Read by ranges, and never as anything but what was listed: each request carries ``If-Match``, and
each answer's ETag and size are compared too, since some servers take no notice of the condition.
Nothing is written. Nothing is repeated here: whoever reads tries again. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PreconditionError

from hotstart.core.span import Span
from hotstart.store.blob_store import Content, StoreUnavailable
from hotstart.store.pinned_object import ListedObject, ObjectChanged, ObjectGone, PinnedObject
from hotstart.store.s3_bucket import S3Bucket
from hotstart.store.s3_errors import BucketMissing, says_no_bucket, store_error

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import S3Store


class PinnedObjects:
    """The objects below one prefix of a bucket."""

    def __init__(self, url: str) -> None:
        """Resolve endpoint and credentials; no request is sent. Raises BucketUrlInvalid."""
        self._bucket = S3Bucket.open(url, create=False)

    @property
    def url(self) -> str:
        """The canonical URL of bucket and prefix."""
        return self._bucket.url

    def listing(self) -> Iterator[ListedObject]:
        """Yield every object below the prefix, in the order of the server.

        Raises BucketMissing, StoreDenied or StoreUnavailable.
        """
        for entry in self._bucket.entries():
            mtime_ns = int(entry["LastModified"].timestamp()) * 10**9
            etag = entry.get("ETag", "").strip('"')
            yield ListedObject(entry["Key"], etag, entry["Size"], mtime_ns)

    def read(self, pinned: PinnedObject, span: Span) -> Content:
        """Return exactly the bytes of ``span``.

        Raises ObjectChanged or ObjectGone (for good), StoreDenied, or StoreUnavailable.
        """
        options: GetOptions = {
            "if_match": f'"{pinned.etag}"',
            "range": (span.offset, span.end),
        }
        try:
            meta, content = self._bucket.ask(lambda objects: _got(objects, pinned.key, options))
        except PreconditionError as err:
            raise ObjectChanged(self.url, pinned, "another") from err
        except FileNotFoundError as err:
            if says_no_bucket(err):
                raise BucketMissing(self.url) from err
            raise ObjectGone(self.url, pinned) from err
        except (BaseError, OSError) as err:
            if "416 Range Not Satisfiable" in str(err):
                raise ObjectChanged(self.url, pinned, "a smaller object") from err
            raise store_error(self.url, err) from err
        found = (meta["e_tag"] or "").strip('"')
        if found != pinned.etag or meta["size"] != pinned.size:
            raise ObjectChanged(self.url, pinned, f"{found!r} of {meta['size']} bytes")
        if len(content) != span.length:
            what = f"{len(content)} bytes came of {span.length} of {pinned}"
            raise StoreUnavailable(self.url, what)
        return content


def _got(objects: S3Store, key: str, options: GetOptions) -> tuple[ObjectMeta, Content]:
    answer = obstore.get(objects, key, options=options)
    return answer.meta, memoryview(answer.bytes())
