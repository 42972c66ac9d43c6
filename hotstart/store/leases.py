"""Leases: what writers rely on although no reference says so yet, and that a collector is at work.

    leases/writer-<random>      a writer: digests that it relies on; renewed while it works
    leases/collector-<random>   a collector that is about to remove blobs; seconds long

The two find each other because each writes its object before it looks for those of the other kind
(docs/formats/store.md has the argument). Whether an object still counts is a matter of its age by
the store's clock; local clocks measure lengths of time only.

The document is canonical JSON; ``manifests`` stand for everything that they list.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hotstart.core import canonical_json
from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.store.format_errors import FormatInvalid, check_version
from hotstart.store.json_document import Fields, parse_object
from hotstart.store.lease_objects import LeaseEntry, LeaseObjects

VERSION = 1
WRITER = "writer-"
COLLECTOR = "collector-"
LEASE_NS = 900 * 10**9
"""A writer's lease that was not renewed for so long is that of a dead writer."""
COLLECTOR_NS = 60 * 10**9
"""A collector's object older than this is that of a dead collector: it removes nothing more."""


class LeaseInvalid(FormatInvalid):
    """A stored lease is not a lease document."""

    format_name = "lease"


def elapsed_s() -> float:
    """Return a clock that only lengths are read from; it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class LeaseDocument:
    """What one writer relies on. ``holder`` tells people who it is, and no program anything."""

    holder: str
    manifests: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical_json.encode(
            {
                "blobs": sorted(str(digest) for digest in self.blobs),
                "holder": self.holder,
                "manifests": sorted(str(digest) for digest in self.manifests),
                "version": VERSION,
            }
        )

    @classmethod
    def parse(cls, content: bytes) -> LeaseDocument:
        """Read canonical bytes. Raises LeaseInvalid or FormatVersionUnknown."""
        fields = parse_object(content, LeaseInvalid, canonical=True)
        check_version("lease", fields.take("version"), (VERSION,))
        document = cls(
            fields.text("holder"), _digests(fields, "manifests"), _digests(fields, "blobs")
        )
        fields.finish()
        if document.to_bytes() != content:
            raise LeaseInvalid("digests are not in order, or not in their canonical spelling")
        return document


def _digests(fields: Fields, key: str) -> tuple[Digest, ...]:
    try:
        return tuple(Digest.parse(text) for text in fields.texts(key))
    except UserError as err:
        raise fields.wrong(key, f"holds no digest: {err}") from err


def holder() -> str:
    """Return this process as a lease names it."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}"


def new_name(kind: str) -> str:
    """Return a name that nobody else has."""
    return f"{kind}{secrets.token_hex(16)}"


def live(entries: Iterable[LeaseEntry], kind: str, now_ns: int) -> list[LeaseEntry]:
    """Return the objects of one kind that still count at ``now_ns`` of the store's clock."""
    life_ns = LEASE_NS if kind == WRITER else COLLECTOR_NS
    return [
        entry
        for entry in entries
        if entry.name.startswith(kind) and entry.modified_ns + life_ns > now_ns
    ]


def wait_for_collectors(
    leases: LeaseObjects, renew: Callable[[], int], sleep: Callable[[float], object]
) -> None:
    """Block until every collector that is at work now has ended or is dead.

    ``renew`` writes the caller's lease and returns the store's time; it was called before. Those
    that begin later will see that lease.
    """
    waited_for = {entry.name for entry in leases.entries() if entry.name.startswith(COLLECTOR)}
    while waited_for:
        now_ns = renew()
        waited_for &= {entry.name for entry in live(leases.entries(), COLLECTOR, now_ns)}
        if waited_for:
            sleep(0.1)
