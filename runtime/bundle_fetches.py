"""Start bundles (or their pages, chunk by chunk) on their way into the cache, or known there.

A restore begins its bundle and does not wait for it: what is not there yet is waited for page by
page. A bundle that has arrived once is not asked for again, since finding out that nothing is
absent costs the fill worker milliseconds of every later restore. That is only remembered, never
relied on: pages that have left the cache are fetched on demand. Methods may be called from any
thread.
"""

from __future__ import annotations

import threading

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from lazyfs.plans import BundlePlan, TracePlan
from runtime.image_access import Prefetcher

log = get_logger(__name__)


class BundleFetches:
    """The bundles of one agent."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        self._prefetcher = prefetcher
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._arrived: set[str] = set()

    def begin(self, name: str, plan: BundlePlan | TracePlan) -> None:
        """Have the plan of the snapshot ``name`` carried out, unless that is done or under way."""
        with self._lock:
            if name in self._arrived or name in self._under_way:
                return
            self._under_way.add(name)
        thread = threading.Thread(target=self._fetch, args=(name, plan), daemon=True)
        thread.start()

    def _fetch(self, name: str, plan: BundlePlan | TracePlan) -> None:
        try:
            self._prefetcher.wait(self._prefetcher.prefetch(name, plan))
        except (HotstartError, OSError) as err:
            log.warning("bundle_not_fetched", image=name, reason=str(err))
        else:
            with self._lock:
                self._arrived.add(name)
        finally:
            with self._lock:
                self._under_way.discard(name)
