"""Stores by URL, opened once and kept: their connections stay warm from one fill to the next.

Opening takes no lock while it waits for the network of another store. Never closed before the
process ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Protocol

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.core.span import Span
from hotstart.store.blob_store import Content
from hotstart.store.pinned_object import PinnedObject
from hotstart.store.retrying import ONCE
from hotstart.store.stack import Store, open_store

WARM_CONNECTIONS = 16


class ObjectReader(Protocol):
    """Reads ranges of pinned objects. Thread-safe."""

    def read(self, pinned: PinnedObject, span: Span) -> Content:
        """Return exactly the bytes of ``span`` of the object that was listed.

        Raises ObjectChanged or ObjectGone, StoreDenied, StoreUnavailable.
        """


class StorePool:
    """Opens each URL once. ``opener`` and ``object_opener`` are replaced in tests."""

    def __init__(
        self,
        opener: Callable[[str], Store] | None = None,
        object_opener: Callable[[str], ObjectReader] | None = None,
    ) -> None:
        self._opener = opener if opener is not None else _open
        self._object_opener = object_opener if object_opener is not None else _open_objects
        self._objects: dict[str, ObjectReader] = {}
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}

    def get(self, url: str) -> Store:
        """Return the store at ``url``. Raises what opening it raises."""
        store = self._stores.get(url)
        if store is None:
            opened = self._opener(url)
            with self._lock:
                # Manifests and plans name it by its canonical URL, a person perhaps otherwise.
                store = self._stores.setdefault(opened.url, opened)
                self._stores[url] = store
        return store

    def objects(self, url: str) -> ObjectReader:
        """Return the bucket of weights at ``url``. Raises BucketUrlInvalid."""
        found = self._objects.get(url)
        if found is None:
            opened = self._object_opener(url)
            with self._lock:
                found = self._objects.setdefault(url, opened)
        return found

    def warm(self, url: str, connections: int = WARM_CONNECTIONS) -> int:
        """Open connections that later fetches use; returns how many requests were answered.

        Blocks for as long as a store that is away is tried again; it keeps no process from ending.
        """
        nothing = Digest.of(b"")
        blobs = self.get(url).blobs
        answered: list[bool] = []

        def ask() -> None:
            with suppress(HotstartError):
                answered.append(blobs.has(nothing))

        # Not an executor: the interpreter waits for its threads when it ends.
        threads = [Thread(target=ask, name=f"warm-{n}", daemon=True) for n in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(answered)


def _open(url: str) -> Store:
    return open_store(url, create=False)


def open_impatient(url: str) -> Store:
    """Open a store that says at once what failed: the fill engine repeats by itself, and longer."""
    return open_store(url, create=False, retry=ONCE)


def _open_objects(url: str) -> ObjectReader:
    # Not at the top: the S3 client costs a third of a second that directory stores never pay.
    from hotstart.store.s3_objects import PinnedObjects

    return PinnedObjects(url)
