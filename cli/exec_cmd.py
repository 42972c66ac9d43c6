"""``hotstart exec``: a program in a running container; streams and exit status pass through."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import click

from agent.values import ExecSpec
from cli.agents import open_known_agent
from cli.command import HotstartCommand
from cli.container_cmd import write_piece
from cli.output import show_json
from cli.settings import Settings

_STDIN_PIECE = 64 * 1024


@click.command("exec", cls=HotstartCommand)
@click.argument("name")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--env", multiple=True, metavar="K=V", help="Set a variable (repeats).")
@click.option("--workdir", metavar="DIR", default="", help="Working directory.")
@click.option("--user", metavar="U[:G]", default="", help="User, name or number.")
@click.pass_obj
def execute(
    settings: Settings,
    name: str,
    argv: tuple[str, ...],
    env: tuple[str, ...],
    workdir: str,
    user: str,
) -> int:
    """Run a program in a container: hotstart exec NAME -- PROGRAM ARGUMENTS.

    Standard input, output and error pass through, without a terminal; so does the exit status.
    """
    captured = {"stdout": bytearray(), "stderr": bytearray()}

    def output(stream: str, data: bytes) -> None:
        if settings.json:
            captured[stream] += data
        else:
            write_piece(stream, data)

    spec = ExecSpec(name, argv, env, workdir, user)
    with open_known_agent(settings, name) as client:
        status = client.exec(spec, stdin=_stdin(), output=output)
    if settings.json:
        texts = {stream: bytes(data) for stream, data in captured.items()}
        show_json({"container": name, "exit_status": status, **texts})
    return status


def _stdin() -> Iterator[bytes]:
    """Yield what comes on standard input, as it comes; a terminal is read line by line."""
    if sys.stdin is None or sys.stdin.closed:
        return
    number = sys.stdin.fileno()
    while data := os.read(number, _STDIN_PIECE):
        yield data
