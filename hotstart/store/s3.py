"""S3 backend: blobs and references as objects of a bucket, at any S3-compatible endpoint.

    PREFIX/blobs/sha256/<hex>                    immutable blobs, their digest in their metadata
    PREFIX/references/<repository>/_tags/<tag>   reference documents; of 0 bytes when removed

obstore moves bytes (synchronous, thread-safe, releases the GIL); boto3 finds credentials, region
and endpoint as AWS tools do, and makes the bucket. Nothing is repeated here: see retrying.py.

References need conditional writes (If-Match, If-None-Match): AWS S3 and SeaweedFS have them. A
removed reference stays as an empty object, because S3 has no conditional delete everywhere, and
an unconditional one could remove what another writer has just put. Versions are ETags.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.core.span import Span
from hotstart.store.blob_store import (
    SMALL_BLOB,
    BlobNotFound,
    Content,
    SpanOutside,
    StoredBlob,
    StoreUnavailable,
    Writable,
)
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import (
    Reference,
    ReferenceChanged,
    ReferenceName,
    ReferenceNameInvalid,
    ReferenceNotFound,
    encode_reference,
    read_reference,
)
from hotstart.store.s3_bucket import S3Bucket
from hotstart.store.s3_errors import BucketMissing, says_no_bucket, store_error

__all__ = ["S3Blobs", "S3Bucket", "S3References"]

_PART_BYTES = 16 << 20
"""Larger blobs are uploaded in parts of this size, side by side; they appear when complete."""
_BLOBS = "blobs/sha256/"
_DIGEST = "hotstart-sha256"
"""Metadata that an upload gives a blob: an object that others have put in its place lacks it."""
_REFERENCES = "references/"
_TAGS = "/_tags/"


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Turn what obstore raises into the store's errors; absence is the caller's to name."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as err:
        raise store_error(url, err) from err


class S3Blobs:
    """The blobs of a bucket. Thread-safe."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._bucket.url

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes of ``span``, or all. See BlobStore."""
        try:
            with _errors(self.url):
                if span is None:
                    return self._read_whole(digest)
                return self._read_span(digest, span)
        except FileNotFoundError as err:
            if says_no_bucket(err):
                raise BucketMissing(self.url) from err
            raise BlobNotFound(self.url, digest) from err

    def _read_whole(self, digest: Digest) -> Content:
        content, size, _ = self._bucket.ask(partial(_got, path=_BLOBS + digest.hex))
        if len(content) != size:
            raise StoreUnavailable(
                self.url, f"{len(content)} bytes came of {size} of blob {digest}"
            )
        return content

    def _read_span(self, digest: Digest, span: Span) -> Content:
        if span.length == 0:
            self._check_span(digest, span)
            return b""
        try:
            got = self._bucket.ask(
                lambda objects: obstore.get_range(
                    objects, _BLOBS + digest.hex, start=span.offset, length=span.length
                )
            )
        except BaseError as err:
            if "416 Range Not Satisfiable" in str(err):
                raise SpanOutside(self.url, digest, span) from err
            raise
        content = memoryview(got)
        if len(content) != span.length:
            # The answer to a span of which only the beginning exists is that beginning. One that is
            # too long is some server's mistake; obstore itself refuses another span than was asked.
            self._check_span(digest, span)
            raise StoreUnavailable(
                self.url, f"{len(content)} bytes came of {span.length} of blob {digest}"
            )
        return content

    def _check_span(self, digest: Digest, span: Span) -> None:
        if span.end > self._head(digest):
            raise SpanOutside(self.url, digest, span)

    def size(self, digest: Digest) -> int:
        """Return the size in bytes."""
        try:
            with _errors(self.url):
                return self._head(digest)
        except FileNotFoundError as err:
            raise BlobNotFound(self.url, digest) from err

    def _head(self, digest: Digest) -> int:
        path = _BLOBS + digest.hex
        return int(self._bucket.ask(lambda objects: obstore.head(objects, path))["size"])

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        try:
            self.size(digest)
        except BlobNotFound:
            return False
        return True

    def _holds(self, digest: Digest, size: int) -> bool:
        """Tell whether the blob needs no upload: one of ours of this size, never a part of one."""
        path = _BLOBS + digest.hex
        try:
            with _errors(self.url):
                found, mark = self._bucket.ask(partial(_described, path=path))
        except FileNotFoundError:
            return False
        return found == size and mark == digest.hex

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``. See BlobStore."""
        if not is_checked:
            digest.check(content, "blob to be stored")
        size = memoryview(content).nbytes
        if size <= SMALL_BLOB or not self._holds(digest, size):
            marks = {_DIGEST: digest.hex}
            path = _BLOBS + digest.hex
            self._bucket.put(path, content, part_bytes=_PART_BYTES, metadata=marks)

    def remove(self, digest: Digest) -> None:
        """Remove the blob; S3 itself does not tell absent from removed, so it is asked before."""
        self.size(digest)
        with _errors(self.url):
            self._bucket.ask(lambda objects: obstore.delete(objects, _BLOBS + digest.hex))

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Yield each blob and its size."""
        for blob in self.entries():
            yield blob.digest, blob.size

    def entries(self) -> Iterator[StoredBlob]:
        """Yield each blob with its size and time."""
        for name, size, modified_ns in self._bucket.list(_BLOBS):
            with suppress(UserError):
                yield StoredBlob(Digest(name), size, modified_ns)


class S3References:
    """The references of a bucket; conditional writes decide races."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._bucket.url

    def get(self, name: ReferenceName) -> Reference:
        """Return what ``name`` points to now."""
        content, version = self._read(name)
        if not content:
            raise ReferenceNotFound(self.url, name)
        return read_reference(self.url, name, content, version)

    def swap(self, name: ReferenceName, target: Descriptor, expected: str | None) -> Reference:
        """Replace ``name`` if it is at ``expected``. See ReferenceStore."""
        content = encode_reference(name, target)
        version = self._put(name, content, expected)
        return Reference(name, target.without_data(), version)

    def remove(self, name: ReferenceName, expected: str) -> None:
        """Remove ``name`` if it is at ``expected``."""
        content, version = self._read(name)
        if not content:
            raise ReferenceNotFound(self.url, name)
        if version != expected:
            raise ReferenceChanged(self.url, name, expected)
        self._put(name, b"", expected)

    def names(self) -> Iterator[ReferenceName]:
        """Yield every name, sorted."""
        found: list[ReferenceName] = []
        for path, size, _ in self._bucket.list(_REFERENCES):
            repository, separator, tag = path.rpartition(_TAGS)
            if separator and size:
                with suppress(ReferenceNameInvalid):
                    found.append(ReferenceName(repository, tag))
        yield from sorted(found)

    def _read(self, name: ReferenceName) -> tuple[bytes, str]:
        try:
            with _errors(self.url):
                content, _, version = self._bucket.ask(partial(_got, path=_path(name)))
                return bytes(content), version
        except FileNotFoundError as err:
            if says_no_bucket(err):
                raise BucketMissing(self.url) from err
            raise ReferenceNotFound(self.url, name) from err

    def _put(self, name: ReferenceName, content: bytes, expected: str | None) -> str:
        """Write the document if the object is as expected; return its new version."""
        try:
            if expected is not None:
                return self._bucket.put(_path(name), content, if_match=expected)
            return self._create(name, content)
        except (PreconditionError, AlreadyExistsError, FileNotFoundError) as err:
            raise ReferenceChanged(self.url, name, expected) from err

    def _create(self, name: ReferenceName, content: bytes) -> str:
        try:
            return self._bucket.put(_path(name), content, if_absent=True)
        except (PreconditionError, AlreadyExistsError):
            try:
                current, version = self._read(name)
            except ReferenceNotFound as err:
                raise StoreUnavailable(self.url, f"reference {name} came and went") from err
            if current:
                raise
            return self._bucket.put(_path(name), content, if_match=version)


def _path(name: ReferenceName) -> str:
    return f"{_REFERENCES}{name.repository}{_TAGS}{name.tag}"


def _described(objects: S3Store, *, path: str) -> tuple[int, str | None]:
    """Return an object's size and the digest that it was uploaded as, by a HEAD request."""
    answer = obstore.get(objects, path, options={"head": True})
    return answer.meta["size"], answer.attributes.get(_DIGEST)


def _got(objects: S3Store, *, path: str) -> tuple[memoryview, int, str]:
    """Read an object whole: its bytes, how many it has, and its ETag."""
    answer = obstore.get(objects, path)
    return memoryview(answer.bytes()), answer.meta["size"], answer.meta["e_tag"] or ""
