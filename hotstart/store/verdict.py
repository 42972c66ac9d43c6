"""What a collector's pass finds: which blobs are garbage, and why the others are kept.

Leases are read first, then references: a writer's lease goes only after its reference has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hotstart.core.digest import Digest
from hotstart.store.blob_store import StoredBlob
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.lease_objects import LeaseEntry
from hotstart.store.leases import LEASE_NS, WRITER, LeaseDocument, live
from hotstart.store.reach import Reach, orphaned, relocated_pack, traces_of
from hotstart.store.references import Reference
from hotstart.store.rewrite import Standing
from hotstart.store.stack import Store


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
class Verdict:
    """What one pass found: garbage and what is kept for which reason."""

    garbage: list[StoredBlob]
    reachable: Amount
    young: Amount
    leased: Amount
    writers: int
    orphans: list[Reference]
    """References of traces and relocations that nothing needs any more."""
    devices: list[DeviceDescriptor]
    """Of every manifest that is kept."""
    standing: Standing


class Judge:
    """Judges the blobs of one store. ``grace_ns`` of the store's clock."""

    def __init__(self, store: Store, reach: Reach, grace_ns: int) -> None:
        self._store = store
        self._reach = reach
        self._grace_ns = grace_ns

    def of(self, blobs: Sequence[StoredBlob], now_ns: int) -> Verdict:
        """Judge the blobs of a listing at ``now_ns`` of the store's clock; only in a pass.

        Raises CollectionStopped, LeaseInvalid, or what the store raises.
        """
        entries = self._store.leases.entries()
        put, held, writers = self._held(live(entries, WRITER, now_ns))
        # After the leases: a writer whose lease is gone by now has moved its reference before.
        references, superseded = self._references(blobs)
        reached = self._reach.of_references(references)
        reached |= traces_of(references, reached) | self._reach.standing_in(references, reached)
        held |= self._reach.standing_in(references, held)
        rest = [blob for blob in blobs if blob.digest not in reached]
        leased = [blob for blob in rest if blob.digest in held]
        rest = [blob for blob in rest if blob.digest not in held]
        young = [blob for blob in rest if blob.modified_ns + self._grace_ns > now_ns]
        kept = {blob.digest for blob in young} | self._reach.of_young([*young, *leased])
        kept |= traces_of(references, held | kept) | self._reach.standing_in(references, kept)
        self._forget_dead(entries, now_ns)
        needed = reached | held | kept
        return Verdict(
            garbage=[blob for blob in rest if blob.digest not in kept],
            reachable=Amount.of([blob for blob in blobs if blob.digest in reached]),
            young=Amount.of([blob for blob in rest if blob.digest in kept]),
            leased=Amount.of(leased),
            writers=writers,
            orphans=[*superseded, *orphaned(references, needed)],
            devices=self._reach.devices(needed),
            standing=Standing(
                now_ns,
                self._reach.moved(references, needed),
                fixed=put | self._reach.no_packs(references, needed),
            ),
        )

    def _references(self, blobs: Sequence[StoredBlob]) -> tuple[list[Reference], list[Reference]]:
        """Return all references, apart from relocations of packs that are there (again)."""
        listed = {blob.digest for blob in blobs}
        references: list[Reference] = []
        superseded: list[Reference] = []
        for reference in self._reach.references():
            pack = relocated_pack(reference.name)
            # Asked now: another collector may have removed it since the listing.
            is_there = pack is not None and pack in listed and self._store.blobs.has(pack)
            (superseded if is_there else references).append(reference)
        return references, superseded

    def _held(self, entries: Sequence[LeaseEntry]) -> tuple[set[Digest], set[Digest], int]:
        """Return what live writers have put, all they rely on, and how many there are.

        Raises LeaseInvalid.
        """
        put: set[Digest] = set()
        held: set[Digest] = set()
        writers = 0
        for entry in entries:
            content = self._store.leases.read(entry.name)
            if content is None:
                continue
            document = LeaseDocument.parse(content)
            put |= set(document.blobs)
            held |= self._reach.of_manifests(document.manifests)
            writers += 1
        return put, held | put, writers

    def _forget_dead(self, entries: Sequence[LeaseEntry], now_ns: int) -> None:
        """Remove what dead writers and collectors have left."""
        for entry in entries:
            if entry.modified_ns + 2 * LEASE_NS < now_ns:
                self._store.leases.remove(entry.name)
