"""``hotstart run`` and ``hotstart restore``: the two ways to a container that is ready.

Detached, a start returns when the container is ready and prints its name. Attached, it passes the
container's output through until it ends, and ends with its status; an interrupt stops it. With
``--json`` the document is the result and the container's output goes to stderr.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from agent.client import AgentClient, Listener
from agent.values import FallbackRule, StartReport
from cli.agents import open_agent
from cli.command import HotstartCommand
from cli.container_cmd import write_piece
from cli.interrupts import interrupted_by
from cli.output import plain, progress, say, show, show_json
from cli.parameters import Wish, container_options, env_option, wish_of, with_process
from cli.settings import Settings
from hotstart.core.errors import NotFound
from runtime.container_spec import ContainerSpec


@click.command("run", cls=HotstartCommand)
@click.argument("reference")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@container_options
@env_option
@click.option("--workdir", metavar="DIR", help="Working directory.")
@click.option("--user", metavar="U[:G]", help="User, name or number.")
@click.option("--hostname", metavar="H", help="Host name inside.")
@click.option("--no-snapshot", is_flag=True, help="Start cold even where a snapshot would do.")
@click.pass_obj
def run(settings: Settings, /, reference: str, argv: tuple[str, ...], **values: Any) -> int:  # noqa: ANN401  # click's options
    """Start a container from an image: hotstart run IMAGE -- ARGUMENTS.

    ARGUMENTS replace the image's command; its entrypoint stays.
    """
    wish = wish_of(values)
    no_snapshot = values.pop("no_snapshot")
    spec = with_process(wish, argv=argv or None, **values)
    with open_agent(settings) as client, _ended_by_signals(client, spec), _listener() as listener:
        report = client.run(
            settings.store_url,
            reference,
            spec=spec,
            no_snapshot=no_snapshot,
            background_fill=wish.background_fill,
            listener=listener,
        )
        return _after_start(settings, client, wish, report)


@click.command("restore", cls=HotstartCommand)
@click.argument("reference")
@container_options
@click.option(
    "--fallback",
    "fallback",
    flag_value="allow",
    help="Start cold if it cannot be restored (stateless snapshots; their default).",
)
@click.option(
    "--no-fallback", "fallback", flag_value="forbid", help="Fail if it cannot be restored."
)
@click.option(
    "--trust-unsigned",
    is_flag=True,
    help="Accept a missing or foreign signature: it is code that root runs.",
)
@click.option(
    "--allow-clones",
    is_flag=True,
    help="Allow a second replica of a snapshot that is not clone-safe.",
)
@click.pass_obj
def restore(
    settings: Settings,
    /,
    reference: str,
    fallback: FallbackRule | None,
    trust_unsigned: bool,
    allow_clones: bool,
    **values: Any,  # noqa: ANN401  # click's options
) -> int:
    """Start a container from a snapshot.

    Readiness, environment and limits are the snapshot's; ports and volumes are given again.
    """
    wish = wish_of(values)
    spec = wish.spec
    with open_agent(settings) as client, _ended_by_signals(client, spec), _listener() as listener:
        report = client.restore(
            settings.store_url,
            reference,
            spec=spec,
            fallback=fallback or "default",
            trust_unsigned=trust_unsigned,
            allow_clones=allow_clones,
            background_fill=wish.background_fill,
            listener=listener,
        )
        return _after_start(settings, client, wish, report)


@contextmanager
def _listener() -> Iterator[Listener]:
    with progress() as sink:
        yield Listener(sink, lambda text: say(f"hotstart: {text}"))


def _after_start(settings: Settings, client: AgentClient, wish: Wish, report: StartReport) -> int:
    """Print the name, or stay until the container has ended."""
    name = report.container.name
    if wish.detach:
        if settings.json:
            show_json(report)
        else:
            say(f"hotstart: {name} is ready after {report.ready_ms:.0f} ms ({report.route})")
            show(name)
        return 0
    status = _attach(client, name, stdout="stderr" if settings.json else "stdout")
    if settings.json:
        show_json({**dataclasses.asdict(report), "exit_status": status, "container": plain(
            next((v for v in client.containers() if v.name == name), report.container)
        )})  # fmt: skip
    return status


def _attach(client: AgentClient, name: str, *, stdout: str) -> int:
    """Pass the container's output through until it ends; return its exit status."""
    try:
        for piece in client.logs(name, follow=True):
            write_piece(stdout if piece.stream == "stdout" else "stderr", piece.data)
        ended = client.wait(name)
        if ended.reason:
            say(f"hotstart: {name}: {ended.reason}")
        return _status(ended.exit_status)
    except KeyboardInterrupt:
        say(f"hotstart: stopping {name}")
        return _status(client.stop(name).exit_status)
    except BrokenPipeError:
        client.stop(name)
        raise


def _status(exit_status: int | None) -> int:
    return 1 if exit_status is None else exit_status


@contextmanager
def _ended_by_signals(client: AgentClient, spec: ContainerSpec) -> Iterator[None]:
    """Let SIGTERM be an interrupt too, and leave no container behind when one comes.

    A start that is under way is cancelled by the closing stream; one that had just succeeded,
    unseen by us, is stopped here.
    """
    with interrupted_by([signal.SIGTERM]):
        try:
            yield
        except KeyboardInterrupt:
            with suppress(NotFound):
                client.stop(spec.name)
            raise
