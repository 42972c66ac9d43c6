"""``hotstart gc``: removes what nothing in the store needs any more. Needs no agent."""

from __future__ import annotations

import re

import click

from cli.command import HotstartCommand
from cli.output import progress, say, show, show_json, size
from cli.settings import Settings
from hotstart.core.errors import UserError
from hotstart.store.collect import Collection, Collector
from hotstart.store.stack import open_store
from hotstart.store.verdict import Amount

_GRACE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)")
_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class GraceInvalid(UserError):
    """A text is not a length of time."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a length of time: {text[:40]!r}", "write 90s, 30m, 24h or 7d")


def parse_grace(text: str) -> float:
    """Return seconds for ``90``, ``90s``, ``30m``, ``24h`` or ``7d``. Raises GraceInvalid."""
    found = _GRACE.fullmatch(text)
    if found is None:
        raise GraceInvalid(text)
    return float(found[1]) * _UNIT_S[found[2]]


@click.command("gc", cls=HotstartCommand)
@click.option(
    "--grace",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="Keep what is younger, by the store's clock: 90s, 30m, 24h, 7d.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would do; change nothing.")
@click.pass_obj
def collect(settings: Settings, grace: str, dry_run: bool) -> None:
    """Remove from the store what no reference, no writer at work and no grace keeps.

    A pack of which less than a third is needed is rewritten without the rest. Images stay as they
    are, and readers find their data where it lies then.

    Safe beside builds, captures and readers of what has a name. What a removed or moved reference
    has left is kept for the grace, for those who still read it.
    """
    grace_s = parse_grace(grace)
    store = open_store(settings.store_url, create=False)
    with progress() as sink:
        found = Collector(store, grace_s=grace_s, progress=sink).collect(dry_run=dry_run)
    if settings.json:
        show_json(
            {"store": settings.store_url, "dry_run": dry_run, "grace_s": grace_s, "gc": found}
        )
        return
    _tell(found, grace, dry_run=dry_run)


def _tell(found: Collection, grace: str, *, dry_run: bool) -> None:
    if found.young.blobs:
        say(f"kept for --grace {grace}: {_amount(found.young)} that nothing reaches")
    if found.writers:
        say(f"kept for {found.writers} writers at work: {_amount(found.leased)}")
    if found.rewritten.packs:
        did = "would rewrite" if dry_run else "rewrote"
        freed = size(found.rewritten.freed_bytes)
        packs = f"{found.rewritten.packs} packs of {size(found.rewritten.size_bytes)}"
        say(f"{did} {packs} that are mostly dead, which frees {freed}")
    verb = "would free" if dry_run else "freed"
    show(f"{verb} {_amount(found.removed)}; in use: {_amount(found.reachable)}")


def _amount(amount: Amount) -> str:
    return f"{size(amount.size_bytes)} in {amount.blobs} blobs"
