"""``hotstart pin`` and ``unpin``: images that stay in the cache whatever its quota.

They need no agent: a pin is a file below ROOT (lazyfs/pins.py), read before anything is evicted.
"""

from __future__ import annotations

import click

from agent.launch import make_root, require_root
from cli.command import HotstartCommand
from cli.output import show, show_json
from cli.settings import Settings
from cli.stored import load
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store


@click.command("pin", cls=HotstartCommand)
@click.argument("reference")
@click.pass_obj
def pin(settings: Settings, reference: str) -> None:
    """Keep what is local of REFERENCE, and what will be, whatever the cache's quota.

    The image that REFERENCE is now stays pinned until it is pinned anew or unpinned. Nothing is
    fetched: see pull.
    """
    from lazyfs.pins import Pin, Pins  # only these two commands need it

    require_root("pinning")
    store = open_store(settings.store_url, create=False)
    stored = load(store, ReferenceName.parse(reference))
    found = Pin.of(store.url, str(stored.reference.name), stored.manifest)
    make_root(settings.root)
    Pins(settings.root).put(found)
    if settings.json:
        show_json({"reference": found.reference, "digest": found.digest, "pinned": True})
    else:
        show(found.digest)


@click.command("unpin", cls=HotstartCommand)
@click.argument("reference")
@click.pass_obj
def unpin(settings: Settings, reference: str) -> None:
    """Let REFERENCE leave the cache again when its quota asks for it."""
    from lazyfs.pins import Pins  # as above

    require_root("unpinning")
    name = str(ReferenceName.parse(reference))
    # By the URL that pin wrote; the store need not hold the reference any more.
    Pins(settings.root).drop(open_store(settings.store_url, create=False).url, name)
    if settings.json:
        show_json({"reference": name, "pinned": False})
    else:
        show(name)
