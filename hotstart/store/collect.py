"""Garbage collection: removes the blobs that nothing reaches, beside any number of writers.

A pass: list blobs, follow references (slow, and nobody waits); then, for seconds at most, *say that
a collector is at work*, read leases, follow the references that have moved, and remove blobs. A
writer whose lease was not seen waits until that is over, so what it finds then stays. Passes are
repeated until nothing is left.

Kept is what a reference reaches; what a live lease names; what a young manifest lists (one that a
reference has left, or will soon point to); and whatever is itself younger than the grace. Ages are
by the store's clock alone. A collector that dies at any instant has removed only garbage, and
another one goes on after ``COLLECTOR_NS``. Readers of something that no name reaches have the
grace; its data is gone after it.

What is assumed: a removal takes effect within 40 s of being sent. No store can be asked to remove
a blob only if it is as old as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hotstart.core.digest import Digest
from hotstart.core.errors import Conflict, NotFound, Unavailable
from hotstart.core.log import get_logger
from hotstart.core.progress import NullSink, Progress, ProgressSink
from hotstart.store.blob_store import StoredBlob
from hotstart.store.lease_objects import LeaseEntry
from hotstart.store.leases import (
    COLLECTOR,
    LEASE_NS,
    WRITER,
    LeaseDocument,
    elapsed_s,
    holder,
    live,
    new_name,
)
from hotstart.store.reach import Reach, orphaned_traces, traces_of
from hotstart.store.references import Reference
from hotstart.store.stack import Store

log = get_logger(__name__)

DEFAULT_GRACE_S = 24 * 3600.0
REMOVERS = 16
_TASK = "gc"
_PASS_S = 20.0
"""How long one pass may remove; writers wait for it, and COLLECTOR_NS is three times as much."""


class CollectorRunning(Conflict):
    """Another collector is at work on this store."""

    def __init__(self, store_url: str) -> None:
        super().__init__(
            f"{store_url}: another gc is at work here",
            "wait for it; one that was killed counts for a minute",
        )


class StoreTooSlow(Unavailable):
    """Leases and references could not be read within a pass."""

    def __init__(self, store_url: str) -> None:
        super().__init__(
            f"{store_url}: its references could not be read again within {_PASS_S:.0f} s, so "
            "nothing may be removed; try again when it is less busy"
        )


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of blobs and their bytes."""

    blobs: int = 0
    size_bytes: int = 0

    @classmethod
    def of(cls, blobs: Sequence[StoredBlob]) -> Amount:
        """Count blobs."""
        return cls(len(blobs), sum(blob.size for blob in blobs))


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did. ``removed`` is what it would remove, in a dry run."""

    removed: Amount
    reachable: Amount
    young: Amount
    """Kept although unreachable: not older than the grace, or listed by a manifest that is not."""
    leased: Amount
    """Kept although unreachable: writers at work hold it."""
    writers: int
    removed_traces: int


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one pass found: garbage and what is kept for which reason."""

    garbage: list[StoredBlob]
    reachable: Amount
    young: Amount
    leased: Amount
    writers: int
    traces: list[Reference]


class Collector:
    """Collects one store. ``grace_s`` in seconds of the store's clock."""

    def __init__(
        self,
        store: Store,
        *,
        grace_s: float = DEFAULT_GRACE_S,
        progress: ProgressSink | None = None,
        clock: Callable[[], float] = elapsed_s,
        removers: int = REMOVERS,
    ) -> None:
        self._store = store
        self._grace_ns = int(grace_s * 1e9)
        self._progress = progress or NullSink()
        self._clock = clock
        self._removers = removers
        self._reach = Reach(store)
        self._removed: list[StoredBlob] = []
        self._removed_traces = 0

    def collect(self, *, dry_run: bool = False) -> Collection:
        """Remove all garbage; with ``dry_run`` only count it.

        Raises CollectionStopped, CollectorRunning, StoreTooSlow, LeaseInvalid or what the store
        raises. What was removed until then was garbage.
        """
        while True:
            blobs = list(self._store.blobs.entries())
            self._read_ahead(blobs)
            verdict, is_done = self._pass(blobs, dry_run=dry_run)
            if is_done:
                return self._report(verdict)

    def _read_ahead(self, blobs: Sequence[StoredBlob]) -> None:
        """Read the manifests that a pass will want, while no writer waits."""
        reached = self._reach.of_references(self._reach.references())
        newest_ns = max((blob.modified_ns for blob in blobs), default=0)
        rest = [blob for blob in blobs if blob.digest not in reached]
        self._reach.of_young(blob for blob in rest if blob.modified_ns + self._grace_ns > newest_ns)

    def _pass(self, blobs: Sequence[StoredBlob], *, dry_run: bool) -> tuple[_Verdict, bool]:
        """Judge the blobs and remove garbage for a while; tell whether all of it is gone."""
        with self._at_work() as (now_ns, until_s):
            verdict = self._judge(blobs, now_ns)
            if dry_run:
                self._removed = verdict.garbage
                self._removed_traces = len(verdict.traces)
                return verdict, True
            if self._clock() > until_s:
                raise StoreTooSlow(self._store.url)
            for trace in verdict.traces:
                with suppress(Conflict, NotFound):
                    self._store.references.remove(trace.name, trace.version)
                    self._removed_traces += 1
            is_done = self._remove(verdict.garbage, until_s)
            return verdict, is_done and not verdict.traces

    @contextmanager
    def _at_work(self) -> Iterator[tuple[int, float]]:
        """Say that a collector is at work; yield the store's time, and when it must end.

        Raises CollectorRunning if there is another: of two that begin at once, at most one goes on.
        """
        leases, name = self._store.leases, new_name(COLLECTOR)
        until_s = self._clock() + _PASS_S
        try:
            now_ns = leases.write(name, LeaseDocument(holder()).to_bytes())
            others = live(leases.entries(), COLLECTOR, now_ns)
            if any(entry.name != name for entry in others):
                raise CollectorRunning(self._store.url)
            yield now_ns, until_s
        finally:
            leases.remove(name)

    def _judge(self, blobs: Sequence[StoredBlob], now_ns: int) -> _Verdict:
        entries = self._store.leases.entries()
        held, writers = self._held(live(entries, WRITER, now_ns))
        # After the leases: a writer whose lease is gone by now has moved its reference before.
        references = self._reach.references()
        reached = self._reach.of_references(references)
        reached |= traces_of(references, reached)
        rest = [blob for blob in blobs if blob.digest not in reached]
        leased = [blob for blob in rest if blob.digest in held]
        rest = [blob for blob in rest if blob.digest not in held]
        young = [blob for blob in rest if blob.modified_ns + self._grace_ns > now_ns]
        kept = {blob.digest for blob in young} | self._reach.of_young([*young, *leased])
        kept |= traces_of(references, held | kept)
        self._forget_dead(entries, now_ns)
        return _Verdict(
            garbage=[blob for blob in rest if blob.digest not in kept],
            reachable=Amount.of([blob for blob in blobs if blob.digest in reached]),
            young=Amount.of([blob for blob in rest if blob.digest in kept]),
            leased=Amount.of(leased),
            writers=writers,
            traces=list(orphaned_traces(references, reached | held | kept)),
        )

    def _held(self, entries: Sequence[LeaseEntry]) -> tuple[set[Digest], int]:
        """Return what live writers rely on, and how many there are. Raises LeaseInvalid."""
        held: set[Digest] = set()
        writers = 0
        for entry in entries:
            content = self._store.leases.read(entry.name)
            if content is None:
                continue
            document = LeaseDocument.parse(content)
            held |= set(document.blobs) | self._reach.of_manifests(document.manifests)
            writers += 1
        return held, writers

    def _forget_dead(self, entries: Sequence[LeaseEntry], now_ns: int) -> None:
        """Remove what dead writers and collectors have left."""
        for entry in entries:
            if entry.modified_ns + 2 * LEASE_NS < now_ns:
                self._store.leases.remove(entry.name)

    def _remove(self, garbage: Sequence[StoredBlob], until_s: float) -> bool:
        """Remove blobs until the pass must end; tell whether none is left."""
        done = sum(blob.size for blob in self._removed)
        total = done + sum(blob.size for blob in garbage)
        with ThreadPoolExecutor(self._removers, "gc-remove") as removers:
            outcomes = removers.map(lambda blob: self._remove_one(blob, until_s), garbage)
            for blob, is_gone in zip(garbage, outcomes, strict=True):
                if is_gone:
                    self._removed.append(blob)
                    done += blob.size
                    self._progress.update(Progress(_TASK, done, total))
        return self._clock() <= until_s

    def _remove_one(self, blob: StoredBlob, until_s: float) -> bool:
        if self._clock() > until_s:
            return False
        with suppress(NotFound):
            self._store.blobs.remove(blob.digest)
        return True

    def _report(self, verdict: _Verdict) -> Collection:
        removed = Amount.of(self._removed)
        self._progress.update(
            Progress(_TASK, removed.size_bytes, removed.size_bytes, finished=True)
        )
        collection = Collection(
            removed=removed,
            reachable=verdict.reachable,
            young=verdict.young,
            leased=verdict.leased,
            writers=verdict.writers,
            removed_traces=self._removed_traces,
        )
        log.info(
            "store_collected",
            store=self._store.url,
            removed_blobs=removed.blobs,
            removed_bytes=removed.size_bytes,
            writers=verdict.writers,
        )
        return collection
