"""The leases of a bucket: PREFIX/leases/<name>; the clock is the server's LastModified."""

from __future__ import annotations

from functools import partial

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from hotstart.store.blob_store import StoreUnavailable
from hotstart.store.lease_objects import LeaseEntry
from hotstart.store.s3_bucket import S3Bucket, nanoseconds
from hotstart.store.s3_errors import store_error

_LEASES = "leases/"


class S3Leases:
    """See LeaseObjects. Thread-safe."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._bucket.url

    def write(self, name: str, content: bytes) -> int:
        """Create or replace an object."""
        self._bucket.put(_LEASES + name, content)
        try:
            return self._bucket.ask(partial(_modified_ns, path=_LEASES + name))
        except FileNotFoundError as err:
            raise StoreUnavailable(self.url, f"lease {name} vanished when written") from err
        except (BaseError, OSError) as err:
            raise store_error(self.url, err) from err

    def read(self, name: str) -> bytes | None:
        """Return an object's content, or None."""
        try:
            return self._bucket.ask(partial(_content, path=_LEASES + name))
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as err:
            raise store_error(self.url, err) from err

    def entries(self) -> list[LeaseEntry]:
        """Return every object."""
        return [LeaseEntry(name, modified) for name, _, modified in self._bucket.list(_LEASES)]

    def remove(self, name: str) -> None:
        """Remove an object."""
        try:
            self._bucket.ask(lambda objects: obstore.delete(objects, _LEASES + name))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as err:
            raise store_error(self.url, err) from err


def _modified_ns(objects: S3Store, *, path: str) -> int:
    return nanoseconds(obstore.head(objects, path)["last_modified"])


def _content(objects: S3Store, *, path: str) -> bytes:
    return bytes(obstore.get(objects, path).bytes())
