"""Moving a reference so that nobody loses anything: what it leaves behind, and what it now names.

A manifest that a reference leaves is *retired*: its time is renewed, and a collector keeps what a
young manifest lists for its grace, so whoever still reads it has that long. After the move
everything that the new manifest lists is looked for; what is gone puts the reference back.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from hotstart.core.errors import HotstartError, IntegrityError, NotFound
from hotstart.core.span import Span
from hotstart.store.descriptor import Descriptor
from hotstart.store.leased import Writer
from hotstart.store.manifest import MAX_BYTES
from hotstart.store.references import Reference, ReferenceName
from hotstart.store.stack import Store


def retire(store: Store, target: Descriptor) -> None:
    """Renew the time of a manifest that a reference is about to leave; one that is gone is none.

    Raises what the store raises.
    """
    if target.size > MAX_BYTES:  # references are not signed; no manifest is so large
        return
    with suppress(NotFound, IntegrityError):
        content = store.blobs.read(target.digest, Span(0, target.size))
        store.blobs.put(target.digest, content)  # checks the digest


def current(store: Store, name: ReferenceName) -> Reference | None:
    """Return what ``name`` points to, or None."""
    try:
        return store.references.get(name)
    except NotFound:
        return None


def move(
    writer: Writer,
    name: ReferenceName,
    target: Descriptor,
    needed: Sequence[Descriptor],
) -> Reference:
    """Move ``name`` from wherever it is to ``target``, which needs the blobs ``needed``.

    Raises ReferenceChanged if somebody else moves it at the same time; LeaseLost or Collected if
    something is gone, with the reference where it was.
    """
    store = writer.store
    writer.confirm(needed)
    before = current(store, name)
    if before is not None and before.target.digest != target.digest:
        retire(store, before.target)
    made = store.references.swap(name, target, before.version if before else None)
    try:
        writer.confirm((target, *needed))
    except Exception:
        _put_back(store, made, before)
        raise
    return made


def _put_back(store: Store, made: Reference, before: Reference | None) -> None:
    """Undo a move, unless somebody else has moved the reference since."""
    with suppress(HotstartError):  # what went wrong before is what the caller must hear
        if before is None:
            store.references.remove(made.name, made.version)
        else:
            store.references.swap(made.name, before.target, made.version)
