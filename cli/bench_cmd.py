"""``hotstart bench``: measures a scenario. The work is bench's; here it is asked for and shown."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from bench.cold_start import run_cold_start
from bench.cold_start_options import LEAST_ROUNDS, ORDER, ColdStartOptions
from bench.report import write_report
from bench.tables import tables
from cli.command import OwnJsonCommand
from cli.output import progress, say


@click.group("bench")
def bench() -> None:
    """Measure a scenario; needs root, and owns everything it starts."""


@bench.command("cold-start", cls=OwnJsonCommand)
@click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result document there.",
)  # fmt: skip
@click.option(
    "--report", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    help="Write a page with plots there.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(min=1), default=LEAST_ROUNDS, show_default=True,
    metavar="N", help="How often each path is measured.",
)  # fmt: skip
@click.option(
    "--path", "paths", multiple=True, type=click.Choice(ORDER), metavar="NAME",
    help="Measure only this path (repeats).",
)  # fmt: skip
@click.option("--figures/--no-figures", default=True, help="Also measure builds and reads.")
@click.option(
    "--scratch", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/tmp"), show_default=True,  # noqa: S108  (a private directory is made in it)
    help="Where the run may write.",
)  # fmt: skip
def cold_start(
    json_file: Path | None,
    report: Path | None,
    rounds: int,
    paths: tuple[str, ...],
    figures: bool,
    scratch: Path,
) -> None:
    """From the request to the first correct answer, by every path."""
    options = ColdStartOptions(
        environment=dict(os.environ),
        command=["hotstart", *sys.argv[1:]],
        rounds=rounds,
        only=frozenset(paths),
        figures=figures,
        scratch=scratch,
    )
    with progress() as sink:
        result = run_cold_start(options, sink)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    if report is not None:
        say(f"hotstart: the report is {write_report(result, report)}")
    _show(result)


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console  # only where tables are drawn

    console = Console()
    for table in tables(result):
        console.print(table)
