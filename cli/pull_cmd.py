"""``hotstart pull`` and ``warm``: make a reference local, whole or what starts touch of it.

The agent's fill worker is the only writer of the cache, so a pull goes through it (and starts an
agent when none runs): what is fetched is verified and counted as for any other read.
"""

from __future__ import annotations

import click

from agent.client import Listener
from cli.agents import open_agent
from cli.command import HotstartCommand
from cli.output import progress, say, show, show_json, size
from cli.settings import Settings


@click.command("pull", cls=HotstartCommand)
@click.argument("reference")
@click.pass_obj
def pull(settings: Settings, reference: str) -> None:
    """Fetch everything of REFERENCE into the cache, so that a start needs no store."""
    _pull(settings, reference, working_set=False)


@click.command("warm", cls=HotstartCommand)
@click.argument("reference")
@click.pass_obj
def warm(settings: Settings, reference: str) -> None:
    """Fetch what recorded starts of REFERENCE touch into the cache."""
    _pull(settings, reference, working_set=True)


def _pull(settings: Settings, reference: str, *, working_set: bool) -> None:
    with open_agent(settings) as client, progress() as sink:
        listener = Listener(sink, lambda text: say(f"hotstart: {text}"))
        report = client.pull(
            settings.store_url, reference, working_set=working_set, listener=listener
        )
    if settings.json:
        show_json(report)
        return
    say(
        f"{reference}: {size(report.size_bytes)} local, {size(report.fetched_bytes)} fetched "
        f"in {report.elapsed_ms / 1000:.1f} s"
    )
    show(report.digest)
