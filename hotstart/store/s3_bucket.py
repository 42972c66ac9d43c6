"""One bucket (and prefix) at one endpoint: how it is named, reached, written to and listed.

URL: ``s3://bucket/prefix?endpoint=http://host:port&region=name``. What the URL leaves out comes
from where AWS tools take it (environment, configuration files, instance role), through boto3's
own resolution; credentials are renewed for as long as the bucket is in use (s3_credentials.py).
Requests are path-style, since most S3-compatible servers know nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import boto3
import obstore
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from hotstart.core.errors import UserError
from hotstart.core.log import get_logger
from hotstart.store.blob_store import StoreDenied, StoreUnavailable, Writable
from hotstart.store.s3_credentials import RenewedClients
from hotstart.store.s3_errors import BucketMissing, store_error

if TYPE_CHECKING:
    from obstore import PutMode

log = get_logger(__name__)

_T = TypeVar("_T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONNECT_TIMEOUT = timedelta(seconds=5)
_READ_TIMEOUT = timedelta(seconds=10)
"""Until the first byte of an answer, and between any two reads of it."""
_WRITE_TIMEOUT = timedelta(seconds=60)
"""The same for uploads: the clock runs while 16 MiB go up a thin line."""
_TOTAL_TIMEOUT = timedelta(minutes=5)
_DEFAULT_REGION = "us-east-1"
_BUCKET = re.compile(r"(?!.*\.\.)(?!\d+(\.\d+){3}$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET_RULE = (
    "a bucket's name has 3 to 63 lower-case letters, digits, '-' and '.', and is no address"
)


class BucketUrlInvalid(UserError):
    """A text is not the URL of a bucket."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url}: {why}", "write s3://bucket/prefix[?endpoint=URL&region=NAME]")
        self.url = url


class S3Bucket:
    """An open bucket. Thread-safe; holds no descriptor that needs closing."""

    def __init__(self, url: str, *, create: bool) -> None:
        """Resolve endpoint, region and credentials; no request is sent.

        Raises BucketUrlInvalid.
        """
        bucket, prefix, query = _parse(url)
        self._bucket = bucket
        self._create = create
        self._prefix = prefix or None
        self._session = boto3.Session()
        self._region = query.get("region") or self._session.region_name or _DEFAULT_REGION
        self._endpoint = query.get("endpoint") or self._resolved_endpoint()
        self.url = _canonical_url(bucket, prefix, query)
        self._clients = RenewedClients(self._session, self._open, self.url)

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> S3Bucket:
        """Open the bucket at ``url``; with ``create`` it is made when it is first written to."""
        return cls(url, create=create)

    def ask(self, operation: Callable[[S3Store], _T]) -> _T:
        """Return what a reading operation returns, with credentials that are renewed if need be.

        Raises what obstore raises.
        """
        return self._clients.ask(lambda clients: operation(clients.reads))

    def put(
        self,
        path: str,
        content: Writable,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        part_bytes: int | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """Write one object, all at once and with its metadata, and return its ETag.

        ``if_match`` and ``if_absent`` make the write conditional: obstore's PreconditionError or
        AlreadyExistsError, or FileNotFoundError, say that the object is otherwise.
        """
        mode: PutMode = "overwrite"
        if if_absent:
            mode = "create"
        elif if_match is not None:
            mode = {"e_tag": if_match}
        options: dict[str, Any] = {"use_multipart": False}
        if part_bytes is not None and memoryview(content).nbytes > part_bytes:
            options = {"chunk_size": part_bytes, "max_concurrency": 4}
        if metadata is not None:
            options["attributes"] = metadata
        try:
            return self._put(path, content, mode, options)
        except FileNotFoundError:
            if if_match is not None:
                raise
            self._make_bucket()
            return self._put(path, content, mode, options)

    def list(self, prefix: str) -> Iterator[tuple[str, int, int]]:
        """Yield the name (below ``prefix``), the size and the time of every object.

        The time is the server's LastModified, in nanoseconds since the epoch.

        A missing bucket is empty if it may be made, and StoreMissing otherwise.
        """
        try:
            yield from self.ask(partial(_listed, prefix=prefix))
        except (BaseError, OSError) as err:
            # obstore has no error of its own for a listing of a bucket that isn't there.
            if "404 Not Found" not in str(err):
                raise store_error(self.url, err) from err
            if not self._create:
                raise BucketMissing(self.url) from err

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what the server lists below the prefix (boto3's words), ``Key`` below it too.

        By boto3, since obstore refuses a whole listing for one key that it can't express.
        Raises BucketMissing, StoreDenied or StoreUnavailable.
        """
        prefix = f"{self._prefix}/" if self._prefix else ""
        client = self._client(self._endpoint)
        try:
            pages = client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    yield {**entry, "Key": entry["Key"].removeprefix(prefix)}
        except (ClientError, BotoCoreError) as err:
            raise self._listing_error(err) from err
        finally:
            client.close()

    def _listing_error(self, err: ClientError | BotoCoreError) -> Exception:
        if not isinstance(err, ClientError):
            return StoreUnavailable(self.url, str(err))
        if err.response["Error"].get("Code") == "NoSuchBucket":
            return BucketMissing(self.url)
        if err.response["ResponseMetadata"].get("HTTPStatusCode") == 403:
            return StoreDenied(self.url, str(err))
        return StoreUnavailable(self.url, str(err))

    def _put(self, path: str, content: Writable, mode: PutMode, options: dict[str, Any]) -> str:
        try:
            answer = self._clients.ask(
                lambda clients: obstore.put(clients.uploads, path, content, mode=mode, **options)
            )
        except (PreconditionError, AlreadyExistsError, FileNotFoundError):
            raise
        except (BaseError, OSError) as err:
            raise store_error(self.url, err) from err
        return answer["e_tag"] or ""

    def _open(self, provider: Boto3CredentialProvider | None, uploads: bool) -> S3Store:
        return S3Store(
            self._bucket,
            prefix=self._prefix,
            credential_provider=provider,
            skip_signature=provider is None,
            endpoint=self._endpoint,
            region=self._region,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": True,
                "connect_timeout": _CONNECT_TIMEOUT,
                "read_timeout": _WRITE_TIMEOUT if uploads else _READ_TIMEOUT,
                "timeout": _TOTAL_TIMEOUT,
            },
            # The retrying wrapper is the one place that repeats.
            retry_config={"max_retries": 0},
        )

    def _resolved_endpoint(self) -> str:
        client = self._client(None)
        try:
            return str(client.meta.endpoint_url)
        finally:
            client.close()

    def _client(self, endpoint: str | None) -> Any:  # noqa: ANN401 (boto3 makes its clients at run time)
        return self._session.client(
            "s3",
            region_name=self._region,
            endpoint_url=endpoint,
            config=Config(
                # As for obstore: a bucket that everybody may read needs no credentials.
                signature_version="s3v4" if self._session.get_credentials() else UNSIGNED,
                s3={"addressing_style": "path"},
                connect_timeout=_CONNECT_TIMEOUT.total_seconds(),
                read_timeout=_READ_TIMEOUT.total_seconds(),
                retries={"total_max_attempts": 1},
            ),
        )

    def _make_bucket(self) -> None:
        """Make the bucket that a write found missing. Raises StoreMissing unless allowed to."""
        if not self._create:
            raise BucketMissing(self.url)
        client = self._client(self._endpoint)
        place: dict[str, Any] = {}
        if self._region != _DEFAULT_REGION:
            place["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        try:
            client.create_bucket(Bucket=self._bucket, **place)
            log.info("bucket_made", store=self.url, reason="a write found none")
        except ClientError as err:
            code = err.response["Error"].get("Code", "")
            if code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return
            if err.response["ResponseMetadata"].get("HTTPStatusCode") == 403:
                raise StoreDenied(self.url, str(err)) from err
            raise StoreUnavailable(self.url, str(err)) from err
        except BotoCoreError as err:
            raise StoreUnavailable(self.url, str(err)) from err
        finally:
            client.close()


def nanoseconds(moment: datetime) -> int:
    """Return a moment as nanoseconds since the epoch, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _listed(objects: S3Store, *, prefix: str) -> list[tuple[str, int, int]]:
    return [
        (entry["path"].removeprefix(prefix), entry["size"], nanoseconds(entry["last_modified"]))
        for batch in obstore.list(objects, prefix, chunk_size=1000)
        for entry in batch
    ]


def _parse(url: str) -> tuple[str, str, dict[str, str]]:
    parts = urlsplit(url)
    if not parts.netloc:
        raise BucketUrlInvalid(url, "no bucket is named")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc):
        raise BucketUrlInvalid(url, f"{parts.netloc[:80]!r} cannot name a bucket: {_BUCKET_RULE}")
    query = dict(parse_qsl(parts.query))
    unknown = sorted(set(query) - {"endpoint", "region"})
    if unknown or parts.fragment:
        raise BucketUrlInvalid(url, f"unknown parameter {', '.join(unknown) or parts.fragment!r}")
    endpoint = query.get("endpoint")
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise BucketUrlInvalid(url, f"endpoint {endpoint[:80]!r} is not an http or https URL")
    return parts.netloc, parts.path.strip("/"), query


def _canonical_url(bucket: str, prefix: str, query: dict[str, str]) -> str:
    place = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    return f"{place}?{urlencode(sorted(query.items()))}" if query else place
