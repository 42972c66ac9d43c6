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
    rows = [_row(store, name) for name in store.references.names() if not name.is_reserved]
    if settings.json:
        show_json({"store": settings.store_url, "images": rows})
        return
    show(
        table(
            ("REFERENCE", "KIND", "DIGEST", "SIZE"),
            [(r["reference"], r["kind"], str(r["digest"])[:19], _size(r)) for r in rows],
        )
    )


def _row(store: Store, name: ReferenceName) -> dict[str, object]:
    """Describe one reference; a broken one is listed as such, it does not hide the others."""
    try:
        stored = load(store, name)
    except (IntegrityError, NotFound) as err:
        say(f"hotstart: {name}: {err}")
        return {"reference": str(name), "kind": "broken", "digest": "", "size_bytes": None}
    return {
        "reference": str(name),
        "kind": stored.kind,
        "digest": str(stored.reference.target.digest),
        "size_bytes": stored.size_bytes,
    }


def _size(row: dict[str, object]) -> str:
    count = row["size_bytes"]
    return size(count) if isinstance(count, int) else "-"
