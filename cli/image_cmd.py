"""``hotstart images``: what the store holds, by name. Needs no agent."""

from __future__ import annotations

import click

from cli.command import HotstartCommand
from cli.output import say, show, show_json, size, table
from cli.settings import Settings
from cli.stored import load
from hotstart.core.errors import IntegrityError, NotFound
from hotstart.store.references import ReferenceName
from hotstart.store.stack import Store, open_store


@click.command("images", cls=HotstartCommand)
@click.pass_obj
def images(settings: Settings) -> None:
    """List images and snapshots of the store, by name."""
    store = open_store(settings.store_url, create=False)
    pinned = _pinned(settings, store)
    rows = [_row(store, name, pinned) for name in store.references.names() if not name.is_reserved]
    if settings.json:
        show_json({"store": settings.store_url, "images": rows})
        return
    show(
        table(
            ("REFERENCE", "KIND", "DIGEST", "SIZE", "PINNED"),
            [(r["reference"], r["kind"], str(r["digest"])[:19], _size(r), _pin(r)) for r in rows],
        )
    )


def _pinned(settings: Settings, store: Store) -> dict[str, str]:
    """Return the digests that references of the store are pinned at; none if they may not be seen.

    A root that lies behind a directory of root's own has no pins for other users.
    """
    from lazyfs.pins import Pins  # its modules only where they are used

    try:
        pins = Pins(settings.root).all()
    except PermissionError:
        return {}
    return {pin.reference: pin.digest for pin in pins if pin.store_url == store.url}


def _row(store: Store, name: ReferenceName, pinned: dict[str, str]) -> dict[str, object]:
    """Describe one reference; a broken one is listed as such, it does not hide the others."""
    try:
        stored = load(store, name)
    except (IntegrityError, NotFound) as err:
        say(f"hotstart: {name}: {err}")
        return {
            "reference": str(name),
            "kind": "broken",
            "digest": "",
            "size_bytes": None,
            "pinned": pinned.get(str(name)),
        }
    return {
        "reference": str(name),
        "kind": stored.kind,
        "digest": str(stored.reference.target.digest),
        "size_bytes": stored.size_bytes,
        "pinned": pinned.get(str(name)),
    }


def _size(row: dict[str, object]) -> str:
    count = row["size_bytes"]
    return size(count) if isinstance(count, int) else "-"


def _pin(row: dict[str, object]) -> str:
    """Say whether a reference is pinned; at another digest, it has moved since."""
    pinned = row["pinned"]
    if pinned is None:
        return "-"
    return "yes" if pinned == row["digest"] else f"at {str(pinned)[:19]}"
