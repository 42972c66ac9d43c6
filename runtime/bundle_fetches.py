"""Start bundles (or their pages, chunk by chunk) on their way into the cache, or known there.

A restore begins its bundle and does not wait for it: what is not there yet is waited for page by
page. A bundle that has arrived once is not asked for again, since finding out that nothing is
absent costs the fill worker milliseconds of every later restore. Once any device has left the cache
(quota, full disk) nothing that arrived before is believed to be there, and each is asked for once
more. Methods may be called from any thread.
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
        self._arrived: dict[str, int] = {}
        """How many devices had left the cache when the fetch began."""

    def begin(self, name: str, plan: BundlePlan | TracePlan) -> None:
        """Have the plan of the snapshot ``name`` carried out, unless that is done or under way."""
        removals = self._prefetcher.removals
        with self._lock:
            if self._arrived.get(name) == removals or name in self._under_way:
                return
            self._under_way.add(name)
        thread = threading.Thread(target=self._fetch, args=(name, plan, removals), daemon=True)
        thread.start()

    def _fetch(self, name: str, plan: BundlePlan | TracePlan, removals: int) -> None:
        try:
            job = self._prefetcher.wait(self._prefetcher.prefetch(name, plan))
        except (HotstartError, OSError) as err:
            log.warning("bundle_not_fetched", image=name, reason=str(err))
        else:
            if not job["stopped"]:  # else its container ended first, and some of it is absent
                with self._lock:
                    self._arrived[name] = removals
        finally:
            with self._lock:
                self._under_way.discard(name)
