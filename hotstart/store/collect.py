"""Garbage collection: removes the blobs that nothing reaches, beside any number of writers.

A pass: list blobs, follow references (slow, and nobody waits); then, for seconds at most, *say that
a collector is at work*, read leases, follow the references that have moved, and remove blobs. A
writer whose lease was not seen waits until that is over, so what it finds then stays. Passes are
repeated until nothing is left.

When no garbage is left, packs that are mostly dead are rewritten (rewrite.py): what is live of them
is stored anew while nobody waits, and the next pass lets readers find it there.

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
from hotstart.store.leases import (
    COLLECTOR,
    LeaseDocument,
    elapsed_s,
    holder,
    live,
    new_name,
)
from hotstart.store.live_spans import LiveSpans
from hotstart.store.reach import CollectionStopped, Reach, trace_image
from hotstart.store.references import Reference
from hotstart.store.rewrite import Plan, Rewrite, Rewriter
from hotstart.store.stack import Store
from hotstart.store.verdict import Amount, Judge, Verdict

log = get_logger(__name__)

DEFAULT_GRACE_S = 24 * 3600.0
REMOVERS = 16
REWRITES = 16
"""Packs rewritten in one pass: each takes some requests while writers wait."""
_TASK = "gc"
_REWRITE_TASK = "rewrite"
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
class Rewritten:
    """Packs that were mostly dead, their bytes before, and how many of those are free now."""

    packs: int = 0
    size_bytes: int = 0
    freed_bytes: int = 0

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Rewritten:
        """Count packs."""
        sizes = sum(plan.old.size for plan in plans)
        return cls(len(plans), sizes, sum(plan.freed_bytes for plan in plans))


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did, or would do (dry run)."""

    removed: Amount
    rewritten: Rewritten
    reachable: Amount
    young: Amount
    """Kept although unreachable: not older than the grace, or listed by a manifest that is not."""
    leased: Amount
    """Kept although unreachable: writers at work hold it."""
    writers: int
    removed_traces: int


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
        self._judge = Judge(store, self._reach, self._grace_ns)
        self._live = LiveSpans(store.blobs)
        self._rewriter = Rewriter(store, self._live, self._grace_ns)
        self._removed: list[StoredBlob] = []
        self._removed_traces = 0
        self._tried: set[Digest] = set()
        self._rewritten: list[Plan] = []

    def collect(self, *, dry_run: bool = False) -> Collection:
        """Remove all garbage, then rewrite packs; with ``dry_run`` only count both.

        Raises CollectionStopped, CollectorRunning, StoreTooSlow, LeaseInvalid or what the store
        raises. What was removed until then was garbage.
        """
        prepared: list[Rewrite] = []
        while True:
            blobs = list(self._store.blobs.entries())
            self._read_ahead(blobs, prepared)
            verdict, is_done = self._pass(blobs, prepared, dry_run=dry_run)
            if not is_done:
                continue
            plans = self._plan(blobs, verdict)
            if dry_run:
                self._rewritten = plans
                return self._report(verdict)
            published, prepared = prepared, self._prepare(plans)
            if not prepared and not published:
                return self._report(verdict)

    def _read_ahead(self, blobs: Sequence[StoredBlob], prepared: Sequence[Rewrite]) -> None:
        """Read manifests, relocations and tables that a pass will want, while no writer waits."""
        references = self._reach.references()
        reached = self._reach.of_references(references)
        newest_ns = max((blob.modified_ns for blob in blobs), default=0)
        rest = [blob for blob in blobs if blob.digest not in reached]
        young = [blob for blob in rest if blob.modified_ns + self._grace_ns > newest_ns]
        live = reached | {blob.digest for blob in young} | self._reach.of_young(young)
        with suppress(CollectionStopped):  # the pass knows better what is needed, and says so
            self._reach.standing_in(references, live)
        if prepared:
            self._live.add(self._reach.devices(live))

    def _pass(
        self, blobs: Sequence[StoredBlob], prepared: Sequence[Rewrite], *, dry_run: bool
    ) -> tuple[Verdict, bool]:
        """Judge the blobs and remove garbage for a while; tell whether all of it is gone.

        If it is, publish what is prepared: no manifest is left then that needs more than it keeps.
        """
        with self._at_work() as (now_ns, until_s):
            verdict = self._judge.of(blobs, now_ns)
            if dry_run:
                self._removed = verdict.garbage
                self._removed_traces = _traces(verdict.orphans)
                return verdict, True
            if self._clock() > until_s:
                raise StoreTooSlow(self._store.url)
            self._remove_orphans(verdict.orphans, until_s)
            new = {digest for rewrite in prepared for digest in rewrite.blobs}
            garbage = [blob for blob in verdict.garbage if blob.digest not in new]
            is_done = self._remove(garbage, until_s) and not verdict.orphans
            if is_done:
                self._publish(prepared, verdict, until_s)
            return verdict, is_done

    def _remove_orphans(self, orphans: Sequence[Reference], until_s: float) -> None:
        """Remove weak references while there is time; what is left over the next pass finds."""
        for orphan in orphans:
            if self._clock() > until_s:
                return
            with suppress(Conflict, NotFound):
                self._store.references.remove(orphan.name, orphan.version)
                self._removed_traces += _traces([orphan])

    def _plan(self, blobs: Sequence[StoredBlob], verdict: Verdict) -> list[Plan]:
        """Return what is to be rewritten and was not tried yet."""
        self._live.add(verdict.devices)
        plans = self._rewriter.plan(blobs, verdict.standing)
        return [plan for plan in plans if plan.old.digest not in self._tried]

    def _prepare(self, plans: Sequence[Plan]) -> list[Rewrite]:
        """Write the new packs of as many plans as a pass may publish."""
        prepared: list[Rewrite] = []
        done, total = 0, sum(plan.old.size for plan in plans)
        for plan in plans[:REWRITES]:
            self._tried.add(plan.old.digest)
            rewrite = self._rewriter.write(plan)
            if rewrite is not None:
                prepared.append(rewrite)
            done += plan.old.size
            self._progress.update(Progress(_REWRITE_TASK, done, total, finished=done == total))
        return prepared

    def _publish(self, prepared: Sequence[Rewrite], verdict: Verdict, until_s: float) -> None:
        """Publish while there is time; what is left over is garbage, and a later gc begins anew."""
        if prepared:
            self._live.add(verdict.devices)
        for rewrite in prepared:
            if self._clock() > until_s:
                return
            if self._rewriter.publish(rewrite, verdict.standing, lambda: self._clock() > until_s):
                self._rewritten.append(rewrite.plan)

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

    def _report(self, verdict: Verdict) -> Collection:
        removed = Amount.of(self._removed)
        self._progress.update(
            Progress(_TASK, removed.size_bytes, removed.size_bytes, finished=True)
        )
        collection = Collection(
            removed=removed,
            rewritten=Rewritten.of(self._rewritten),
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
            rewritten_packs=len(self._rewritten),
            writers=verdict.writers,
        )
        return collection


def _traces(references: Sequence[Reference]) -> int:
    return sum(trace_image(reference.name) is not None for reference in references)
