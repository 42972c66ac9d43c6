"""``hotstart snapshot``: captures a running container; returns when the snapshot is published."""

from __future__ import annotations

from pathlib import Path

import click

from agent.client import Listener
from agent.values import Statefulness
from cli.agents import open_known_agent
from cli.command import HotstartCommand
from cli.output import progress, say, show, show_json, size
from cli.settings import Settings
from hotstart.core.errors import NotFound, UserError


@click.command("snapshot", cls=HotstartCommand)
@click.argument("name")
@click.option("-t", "--tag", "reference", required=True, metavar="REF", help="Name to publish as.")
@click.option(
    "--golden",
    "goldens",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Request whose answer must be the same after a restore (JSON, repeats).",
)
@click.option(
    "--stateless", is_flag=True, help="A cold start is as good: it may take a restore's place."
)
@click.option("--stateful", is_flag=True, help="A cold start never takes a restore's place.")
@click.option("--leave-running", is_flag=True, help="Let the container go on afterwards.")
@click.pass_obj
def snapshot(
    settings: Settings,
    name: str,
    reference: str,
    goldens: tuple[Path, ...],
    stateless: bool,
    stateful: bool,
    leave_running: bool,
) -> None:
    """Capture a running container as REF, rehearse a restore of it, and publish it.

    The container is stopped unless --leave-running; if the capture fails it runs on.
    """
    if stateless and stateful:
        raise click.UsageError("a snapshot is --stateless or --stateful, not both")
    declared: Statefulness = "stateless" if stateless else "stateful" if stateful else "prove"
    texts = [_golden(path) for path in goldens]
    with open_known_agent(settings, name) as client, progress() as sink:
        report = client.snapshot(
            settings.store_url,
            name,
            reference,
            goldens=texts,
            statefulness=declared,
            leave_running=leave_running,
            listener=Listener(sink, lambda text: say(f"hotstart: {text}")),
        )
    if settings.json:
        show_json(report)
        return
    kind = "stateless" if report.stateless else "stateful"
    say(
        f"{reference}: {report.verdict}, {kind}, {size(report.size_bytes)}, "
        f"{size(report.uploaded_bytes)} uploaded, frozen for {report.frozen_ms:.0f} ms"
    )
    if report.stateful_reason:
        say(f"hotstart: {reference} is stateful: {report.stateful_reason}")
    show(report.digest)


def _golden(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise NotFound(f"{path}: there is no such file", "check the path") from err
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(
            f"{path}: no golden request can be read from it: {err}", "give a file of JSON"
        ) from err
