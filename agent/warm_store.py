"""The store that most requests will name: opened, with connections, before the first of them.

``HOTSTART_STORE`` in the agent's environment names it, as it does for every command. A first
restore otherwise opens it twice (agent and fill worker) and waits for connections, which is a
third of what it may take on an empty node. Nothing depends on it.
"""

from __future__ import annotations

import threading

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.store.stack import preload_client
from lazyfs.fill_client import FillClient
from lazyfs.stores import StorePool

log = get_logger(__name__)

CONNECTIONS = 6
"""The agent's own: a manifest's requests, and a bootstrap in parallel ranges."""


def preload(url: str) -> None:
    """Import the client of the store at ``url`` beside what else a start does; nobody waits."""
    threading.Thread(target=preload_client, args=(url,), name="store-client", daemon=True).start()


def begin(url: str, stores: StorePool, fill: FillClient) -> threading.Thread:
    """Warm the store at ``url`` in a thread of its own, and return that."""

    def warm() -> None:
        try:
            stores.warm(url, CONNECTIONS)
            answered = fill.warm(url)
        except (HotstartError, OSError) as err:
            log.warning("store_not_warmed", store=url, reason=str(err))
        else:
            log.info("store_warmed", store=url, connections=answered)

    thread = threading.Thread(target=warm, name="warm-store", daemon=True)
    thread.start()
    return thread
