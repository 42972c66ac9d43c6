"""Start bundles on their way into the cache, and those known to be there.

A restore begins its bundle and does not wait for it: what is not there yet is waited for page by
page. A bundle that has arrived once is not asked for again, since finding out that nothing is
absent costs the fill worker milliseconds of every later restore. That is only remembered, never
relied on: pages that have left the cache are fetched on demand. Methods may be called from any
thread.
"""

from __future__ import annotations

import threading

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from lazyfs.plans import BundlePlan
from runtime.image_access import Prefetcher

log = get_logger(__name__)


class BundleFetches:
    """The bundles of one agent."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        self._prefetcher = prefetcher
        self._lock = threading.Lock()
        self._under_way: set[Digest] = set()
        self._arrived: set[Digest] = set()

    def begin(self, name: str, plan: BundlePlan) -> None:
        """Have the bundle fetched for the image ``name``, unless it is here or on its way."""
        with self._lock:
            if plan.bundle in self._arrived or plan.bundle in self._under_way:
                return
            self._under_way.add(plan.bundle)
        thread = threading.Thread(target=self._fetch, args=(name, plan), daemon=True)
        thread.start()

    def _fetch(self, name: str, plan: BundlePlan) -> None:
        try:
            self._prefetcher.wait(self._prefetcher.prefetch(name, plan))
        except (HotstartError, OSError) as err:
            log.warning("bundle_not_fetched", image=name, reason=str(err))
        else:
            with self._lock:
                self._arrived.add(plan.bundle)
        finally:
            with self._lock:
                self._under_way.discard(plan.bundle)
