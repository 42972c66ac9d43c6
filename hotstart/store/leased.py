"""A writer's lease: what it puts into a store, or borrows there, is not collected under its hands.

    with leased(store, manifests=(base,)) as writer:
        ... writer.store.blobs.put(...) ...      # held from then on
        writer.confirm(descriptors)              # raises if something is gone all the same

Blobs that are put through ``writer.store`` are claimed one by one: the lease names the blob, no
collector that could have missed that is at work, and *then* the blob is there, or is put again.
A thread renews the lease. One that could not be renewed in time is lost, and says so when it is
next used; so it does after the machine has slept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError, Unavailable
from hotstart.core.log import get_logger
from hotstart.store.blob_store import BlobStore, Writable
from hotstart.store.descriptor import Descriptor
from hotstart.store.lease_objects import LeaseObjects
from hotstart.store.leases import (
    LEASE_NS,
    WRITER,
    LeaseDocument,
    elapsed_s,
    holder,
    new_name,
    wait_for_collectors,
)
from hotstart.store.passing import PassingBlobs
from hotstart.store.relocating import not_kept
from hotstart.store.stack import Store

log = get_logger(__name__)

_RENEW_S = 60.0
_LOST_S = LEASE_NS / 1e9 / 2
"""Half of what others grant: the rest covers the delay of writes and clocks of unequal speed."""
_CHECKERS = 16


class LeaseLost(Unavailable):
    """A lease was not renewed in time, so a collector may have removed what it was to keep."""

    def __init__(self, store_url: str) -> None:
        super().__init__(
            f"{store_url}: the lease on what is being written ran out (the store was away, or this "
            "machine slept); begin again"
        )


class Collected(Unavailable):
    """Blobs that a manifest needs have vanished from the store."""

    def __init__(self, store_url: str, missing: Sequence[Descriptor]) -> None:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        super().__init__(
            f"{store_url}: blob {missing[0].digest}{more} was removed while this was written; "
            "nothing is published, begin again"
        )
        self.missing = tuple(missing)


class Lease:
    """One lease, from ``begin`` to ``end``. May be used by any thread."""

    def __init__(
        self,
        leases: LeaseObjects,
        manifests: Collection[Digest] = (),
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = elapsed_s,
    ) -> None:
        self._leases = leases
        self._name = new_name(WRITER)
        self._manifests = set(manifests)
        self._blobs: set[Digest] = set()
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._written = False
        self._renewed_s = clock()

    def begin(self) -> None:
        """Write the lease. What it names is safe when this returns, as far as it is there."""
        self._write()
        self._wait()

    def claim(self, digest: Digest) -> None:
        """Name a blob. If it is there *after* this, it stays. Raises LeaseLost."""
        with self._lock:
            known = digest in self._blobs
            self._blobs.add(digest)
        if known:
            self.check()
        else:
            self.renew()
            self._wait()

    def renew(self) -> int:
        """Write the lease again; return the store's time. Raises LeaseLost."""
        self.check()
        return self._write()

    def check(self) -> None:
        """Raise LeaseLost if the lease was not renewed in time."""
        if self._clock() - self._renewed_s > _LOST_S:
            raise LeaseLost(self._leases.url)

    def end(self) -> None:
        """Remove the lease; one that stays after all runs out by itself."""
        try:
            self._leases.remove(self._name)
        except HotstartError as err:
            if self._written:  # else the writer has just been told the same
                log.warning("lease_not_removed", store=self._leases.url, reason=err)

    def _write(self) -> int:
        with self._lock:
            document = LeaseDocument(holder(), tuple(self._manifests), tuple(self._blobs))
            begun_s = self._clock()
            written_ns = self._leases.write(self._name, document.to_bytes())
            self._written = True
            self._renewed_s = begun_s
            return written_ns

    def _wait(self) -> None:
        wait_for_collectors(self._leases, self.renew, self._sleep)


class LeasedBlobs(PassingBlobs):
    """Blobs as they are, but what is put is claimed."""

    def __init__(self, inner: BlobStore, lease: Lease) -> None:
        super().__init__(inner)
        self._lease = lease

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content`` and claim it. Raises LeaseLost too."""
        self._inner.put(digest, content, is_checked=is_checked)
        self._lease.claim(digest)
        # Looked at after the claim: what a collector removed before is stored again, now for good.
        if not self._inner.has(digest):
            self._inner.put(digest, content, is_checked=True)


class Writer:
    """What a writer works with: the store with leased blobs, and the check after publishing."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store = replace(store, blobs=LeasedBlobs(store.blobs, lease))
        self._lease = lease

    def confirm(self, needed: Sequence[Descriptor]) -> None:
        """Raise Collected unless every blob is there, and LeaseLost unless they all stay.

        A pack that was rewritten is there if every chunk that tables among ``needed`` list is.
        """
        blobs = self.store.blobs
        with ThreadPoolExecutor(_CHECKERS, "confirm") as checkers:
            there = list(checkers.map(lambda descriptor: blobs.has(descriptor.digest), needed))
        missing = [item for item, found in zip(needed, there, strict=True) if not found]
        if missing:
            missing = not_kept(blobs, self.store.references, missing, needed)
        if missing:
            raise Collected(self.store.url, missing)
        self._lease.check()


@contextmanager
def leased(store: Store, manifests: Collection[Digest] = ()) -> Iterator[Writer]:
    """Hold ``manifests``, all that they list, and what is put, until the block ends.

    Blocks for as long as a collector removes blobs at this moment (seconds). What was collected
    before is missing still: read it, or ``confirm`` it. Raises what the store raises.
    """
    lease = Lease(store.leases, manifests)
    ended = threading.Event()
    renewer = threading.Thread(target=_keep, args=(lease, ended), name="lease", daemon=True)
    try:
        lease.begin()
        renewer.start()
        yield Writer(store, lease)
    finally:
        ended.set()
        if renewer.ident is not None:
            renewer.join()
        lease.end()


def _keep(lease: Lease, ended: threading.Event) -> None:
    """Renew until the end; a lease that is lost is reported where it is used."""
    while not ended.wait(_RENEW_S):
        try:
            lease.renew()
        except HotstartError as err:
            log.warning("lease_not_renewed", reason=err)
