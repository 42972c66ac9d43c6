"""``hotstart pull``: makes everything of a reference local, through the agent.

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
    with open_agent(settings) as client, progress() as sink:
        listener = Listener(sink, lambda text: say(f"hotstart: {text}"))
        report = client.pull(settings.store_url, reference, listener=listener)
    if settings.json:
        show_json(report)
        return
    say(
        f"{reference}: {size(report.size_bytes)} local, {size(report.fetched_bytes)} fetched "
        f"in {report.elapsed_ms / 1000:.1f} s"
    )
    show(report.digest)
