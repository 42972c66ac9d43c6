"""Stores by URL, opened once and kept: their connections stay warm from one fill to the next.

Opening takes no lock while it waits for the network of another store. Never closed before the
process ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.store.retrying import ONCE
from hotstart.store.stack import Store, open_store

WARM_CONNECTIONS = 16


class StorePool:
    """Opens each URL once. ``opener`` is replaced in tests."""

    def __init__(self, opener: Callable[[str], Store] | None = None) -> None:
        self._opener = opener if opener is not None else _open
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
