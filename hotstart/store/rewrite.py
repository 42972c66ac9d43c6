"""Rewriting packs that are mostly dead: what is live of them goes into a smaller pack.

    plan        which packs: old enough, nobody puts them now, less than a third of them is live
    write       the new pack, while nobody waits
    publish     in the collector's pass: is everything that is live *now* in the new pack? then the
                relocation (relocation.py) of each name of the old one, then the old one goes

Tables, manifests and signatures stay as they are, so a pack that was rewritten keeps its name. When
the new pack is mostly dead in its turn, all names that lead to it are led to the next: relocations
never form chains. A collector that dies leaves the old pack, or both, or the relocation and the new
pack; what is then too much is garbage of the next one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

from hotstart.core.digest import Digest
from hotstart.core.errors import Conflict, IntegrityError, NotFound
from hotstart.core.log import get_logger
from hotstart.core.span import Span, merge
from hotstart.store import media_types
from hotstart.store.blob_store import StoredBlob
from hotstart.store.descriptor import Descriptor
from hotstart.store.live_spans import LiveSpans
from hotstart.store.packs import PACK_BYTES
from hotstart.store.reach import Moved
from hotstart.store.references import ReferenceName
from hotstart.store.relocation import MAX_RUNS, Relocation, Run
from hotstart.store.stack import Store

log = get_logger(__name__)

LIVE_SHARE = 3
"""A pack is mostly dead if less than one part in so many of its bytes is live."""
LEAST_FREED_BYTES = 64 << 10
"""Not worth the two requests that each reader of a relocation sends once."""
MAX_PACK_BYTES = 4 * PACK_BYTES
"""A pack is rewritten in memory; nobody of ours writes such a large one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a pass found: where rewritten packs are, and which blobs must stay as they are."""

    now_ns: int
    moved: Mapping[Digest, Moved]
    """Of rewritten packs that are live."""
    fixed: frozenset[Digest] | set[Digest]
    """Blobs that a writer at work has put, or that something needs otherwise than as a pack."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is live of a pack, by each name it is listed under: (span there, span in the pack)."""

    old: StoredBlob
    live: Mapping[Digest, Sequence[tuple[Span, Span]]]
    kept: tuple[Span, ...]
    """Spans of the pack, all names taken together."""
    versions: Mapping[Digest, str | None]
    """Of the reference of each name's relocation; None if there is none."""

    @property
    def kept_bytes(self) -> int:
        """How long the new pack is."""
        return sum(span.length for span in self.kept)

    @property
    def freed_bytes(self) -> int:
        """How much smaller the new pack is."""
        return self.old.size - self.kept_bytes


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A plan whose new pack is stored, and the relocation of each name."""

    plan: Plan
    relocations: tuple[Relocation, ...]

    @property
    def blobs(self) -> set[Digest]:
        """What is stored for it already, although nothing reaches it yet."""
        return {relocation.target for relocation in self.relocations}


class Rewriter:
    """Plans, writes and publishes rewritten packs of one store. ``live`` grows with each pass."""

    def __init__(self, store: Store, live: LiveSpans, grace_ns: int) -> None:
        self._store = store
        self._live = live
        self._grace_ns = grace_ns

    def plan(self, blobs: Iterable[StoredBlob], standing: Standing) -> list[Plan]:
        """Return what to do with each pack that is mostly dead."""
        names = self._names(standing)
        plans = []
        for blob in blobs:
            is_old = blob.modified_ns + self._grace_ns <= standing.now_ns
            if blob.digest in names and is_old and blob.size <= MAX_PACK_BYTES:
                plan = self._plan(blob, names[blob.digest], standing)
                if plan is not None and _is_worth_it(plan):
                    plans.append(plan)
        return plans

    def write(self, plan: Plan) -> Rewrite | None:
        """Store the new pack; None if the old one is gone, or is not what its digest names.

        Holds both in memory. Raises what the store raises.
        """
        blobs, old = self._store.blobs, plan.old.digest
        try:
            content = memoryview(blobs.read(old))
        except NotFound:
            return None
        except IntegrityError as err:
            log.warning("pack_not_rewritten", pack=old, reason=err)
            return None
        kept = b"".join(content[span.offset : span.end] for span in plan.kept)
        digest = Digest.of(kept)
        if digest in plan.live:
            return None
        blobs.put(digest, kept, is_checked=True)
        relocations = (_relocation(name, plan, digest) for name in plan.live)
        return Rewrite(plan, tuple(relocations))

    def publish(self, rewrite: Rewrite, standing: Standing, is_over: Callable[[], bool]) -> bool:
        """Let every name lead to the new pack, and remove the old one; only in a pass.

        False if that would lose something, the names have changed, or the pass ``is_over``: asked
        before each change, since every request may have taken longer than others wait for a
        collector. Then nothing is removed. Raises what the store raises; each name leads to bytes
        that are there all the same.
        """
        if not self._loses_nothing(rewrite, standing):
            return False
        plan, blobs = rewrite.plan, self._store.blobs
        for relocation in rewrite.relocations:
            content = relocation.encode()
            target = Descriptor.of(media_types.RELOCATION, content)
            blobs.put(target.digest, content)
            name = ReferenceName.relocation_of(relocation.source)
            if is_over():
                return False
            try:
                self._store.references.swap(name, target, plan.versions[relocation.source])
            except Conflict:
                return False
        if is_over():
            return False
        with suppress(NotFound):
            blobs.remove(plan.old.digest)
        return True

    def _names(self, standing: Standing) -> dict[Digest, list[Digest]]:
        """Return, by pack that may be there, the names under which live tables list it."""
        names: dict[Digest, list[Digest]] = {}
        for name in sorted(self._live.packs()):
            names.setdefault(name, []).append(name)
            moved = standing.moved.get(name)
            if moved is not None:
                names.setdefault(moved.relocation.target, []).append(name)
        return names

    def _plan(self, old: StoredBlob, names: Iterable[Digest], standing: Standing) -> Plan | None:
        """Return what is live of a pack; None if that is unknown or the pack must stay."""
        if old.digest in standing.fixed:
            return None
        live: dict[Digest, list[tuple[Span, Span]]] = {}
        versions: dict[Digest, str | None] = {}
        for name in names:
            spans = self._live.of(name)
            if spans is None:
                return None
            moved = standing.moved.get(name)
            versions[name] = None if moved is None else moved.reference.version
            live[name] = []
            for span in spans:
                is_here = moved is None or name == old.digest
                place = span if is_here or moved is None else moved.relocation.translate(span)
                if place is None or place.end > old.size:
                    return None
                live[name].append((span, place))
        kept = merge(place for places in live.values() for _, place in places)
        return Plan(old, live, tuple(kept), versions)

    def _loses_nothing(self, rewrite: Rewrite, standing: Standing) -> bool:
        """Tell whether all that is live now is in the new pack, and both packs are there."""
        old = rewrite.plan.old
        now = self._plan(old, self._names(standing).get(old.digest, ()), standing)
        if now is None or now.versions != rewrite.plan.versions:
            return False
        of = {relocation.source: relocation for relocation in rewrite.relocations}
        is_kept = all(
            of[name].translate(span) is not None
            for name, places in now.live.items()
            for span, _ in places
        )
        has = self._store.blobs.has
        return is_kept and has(old.digest) and all(has(pack) for pack in rewrite.blobs)


def _is_worth_it(plan: Plan) -> bool:
    is_mostly_dead = 0 < plan.kept_bytes * LIVE_SHARE < plan.old.size
    is_small = all(0 < len(spans) <= MAX_RUNS for spans in plan.live.values())
    return is_mostly_dead and is_small and plan.freed_bytes >= LEAST_FREED_BYTES


def _relocation(name: Digest, plan: Plan, new: Digest) -> Relocation:
    """Return where the live spans of a name lie in the new pack, which is ``plan.kept`` in order.

    Each lies in one kept span, since those are the union.
    """
    starts = [0, *accumulate(span.length for span in plan.kept)]
    runs = []
    for span, place in plan.live[name]:
        number = bisect_right(plan.kept, place.offset, key=lambda kept: kept.offset) - 1
        target = starts[number] + place.offset - plan.kept[number].offset
        runs.append(Run(span.offset, span.length, target))
    return Relocation(name, new, starts[-1], tuple(runs))
