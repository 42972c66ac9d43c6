"""``hotstart ps``, ``logs``, ``stop`` and ``wait``: containers of this root's agent."""

from __future__ import annotations

import sys
import time

import click

from agent.values import ContainerView, LogPiece
from cli.agents import has_state, open_agent, open_known_agent
from cli.command import HotstartCommand
from cli.output import show, show_json, table
from cli.parameters import Finite
from cli.settings import Settings


@click.command("ps", cls=HotstartCommand)
@click.pass_obj
def ps(settings: Settings) -> None:
    """List containers: running ones, and ended ones until they are removed."""
    views: tuple[ContainerView, ...] = ()
    if has_state(settings):
        with open_agent(settings) as client:
            views = client.containers()
    if settings.json:
        show_json({"containers": views})
        return
    headings = ("NAME", "STATE", "REFERENCE", "ROUTE", "AGE", "PORTS")
    show(table(headings, [_row(view) for view in views]))


def _row(view: ContainerView) -> tuple[str, ...]:
    state = view.state
    if view.exit_status is not None:
        state = f"{state} ({view.exit_status})"
    # The ports of one that has ended are anybody's again.
    ports = view.ports if view.state != "stopped" else ()
    age = max(0.0, time.time() - view.created_ns / 1e9)
    return (
        view.name,
        state,
        view.reference,
        view.route,
        duration(age),
        ", ".join(str(port) for port in ports) or "-",
    )


def duration(seconds: float) -> str:
    """Return a time span as people read it: ``3 min``."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} d"


@click.command("logs", cls=HotstartCommand)
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option(
    "--tail", type=click.IntRange(1, 2**32 - 1), metavar="N", help="Only the last N lines."
)
@click.pass_obj
def logs(settings: Settings, name: str, follow: bool, tail: int | None) -> None:
    """Show what a container wrote, its stdout on stdout, its stderr on stderr."""
    pieces: list[LogPiece] = []
    with open_known_agent(settings, name) as client:
        for piece in client.logs(name, follow=follow, tail=tail or 0):
            if settings.json:
                pieces.append(piece)
            else:
                write_piece(piece.stream, piece.data)
    if settings.json:
        show_json({"container": name, "log": pieces})


def write_piece(stream: str, data: bytes) -> None:
    """Pass bytes of a container through, unchanged and at once."""
    target = sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer
    target.write(data)
    target.flush()


@click.command("stop", cls=HotstartCommand)
@click.argument("name")
@click.option(
    "--time",
    "grace_s",
    type=Finite(min=0),
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="How long to wait before SIGKILL.",
)
@click.pass_obj
def stop(settings: Settings, name: str, grace_s: float) -> None:
    """End a container; returns when its process and its ports are gone."""
    with open_known_agent(settings, name) as client:
        view = client.stop(name, grace_s=grace_s)
    if settings.json:
        show_json(view)
    else:
        show(name)


@click.command("wait", cls=HotstartCommand)
@click.argument("name")
@click.pass_obj
def wait(settings: Settings, name: str) -> None:
    """Wait until a container has ended, and print its exit status."""
    with open_known_agent(settings, name) as client:
        view = client.wait(name)
    if settings.json:
        show_json(view)
    else:
        show(str(view.exit_status))
