"""The agent's watch over the disk: the cache's quota, and room for the fill worker.

A thread looks every few seconds whether the cache is beyond its quota; RUN_DIR/room.sock answers
the worker when it finds the disk full. Between two agents nobody does either: the next one does.
"""

from __future__ import annotations

import threading
from pathlib import Path

from hotstart.core.log import get_logger
from lazyfs.eviction import CacheUse, Evictor
from lazyfs.room import room_server

log = get_logger(__name__)

CHECK_S = 3.0


class CacheSpace:
    """Watches until ``close``. One for each root."""

    def __init__(self, root: Path, evictor: Evictor) -> None:
        self._evictor = evictor
        self._closed = threading.Event()
        self._server = room_server(root / "run", evictor.make_room)
        self._thread = threading.Thread(target=self._watch, name="cache-space", daemon=True)
        self._thread.start()

    def check(self) -> CacheUse:
        """Keep the quota now; returns what the cache takes."""
        return self._evictor.enforce_quota()

    def close(self) -> None:
        """End the watch after the eviction that is under way."""
        self._closed.set()
        self._server.close()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self.check()
            except Exception as err:  # the next look may go well
                log.warning("cache_check_failed", reason=repr(err))
            self._closed.wait(CHECK_S)
