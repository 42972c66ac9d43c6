"""``hotstart bench``: measures a scenario. The work is bench's; here it is asked for and shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.launch import require_root
from agent.values import METRICS_VARIABLE
from bench.cold_start import run_cold_start
from bench.cold_start_options import LEAST_ROUNDS, ORDER, ColdStartOptions
from bench.fs.options import FULL, QUICK, WORKLOADS, FsOptions
from bench.fs.report import tables as fs_tables
from bench.fs.report import write_report as write_fs_report
from bench.fs.scenario import run_fs
from bench.report import write_report
from bench.samples import refuse_failures
from bench.tables import tables
from cli.bench_results import check_places, keep
from cli.command import OwnJsonCommand
from cli.interrupts import interrupted_by
from cli.output import progress

if TYPE_CHECKING:
    from rich.table import Table

_json_file = click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result document there.",
)  # fmt: skip
_report = click.option(
    "--report", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    help="Write a page with plots there.",
)  # fmt: skip
_rounds = click.option(
    "--rounds", type=click.IntRange(min=1), default=LEAST_ROUNDS, show_default=True,
    metavar="N", help="How often each path is measured.",
)  # fmt: skip
_scratch = click.option(
    "--scratch", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/tmp"), show_default=True,  # noqa: S108  (a private directory is made in it)
    help="Where the run may write.",
)  # fmt: skip


@click.group("bench")
def bench() -> None:
    """Measure a scenario; needs root, and owns everything it starts."""


@bench.command("cold-start", cls=OwnJsonCommand)
@_json_file
@_report
@_rounds
@click.option(
    "--path", "paths", multiple=True, type=click.Choice(ORDER), metavar="NAME",
    help="Measure only this path (repeats).",
)  # fmt: skip
@click.option("--figures/--no-figures", default=True, help="Also measure builds and reads.")
@_scratch
def cold_start(
    json_file: Path | None,
    report: Path | None,
    rounds: int,
    paths: tuple[str, ...],
    figures: bool,
    scratch: Path,
) -> None:
    """From the request to the first correct answer, by every path."""
    _check(json_file, report)
    options = ColdStartOptions(
        environment=_environment(),
        command=["hotstart", *sys.argv[1:]],
        rounds=rounds,
        only=frozenset(paths),
        figures=figures,
        scratch=scratch,
    )
    with interrupted_by(), progress() as sink:
        result = run_cold_start(options, sink)
    _show(lambda width: tables(result, width))
    keep(result, json_file, report, write_report)
    refuse_failures(result["summary"])


@bench.command("fs", cls=OwnJsonCommand)
@_json_file
@_report
@_rounds
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(WORKLOADS), metavar="NAME",
    help="Measure only this workload (repeats).",
)  # fmt: skip
@click.option(
    "--minutes", type=click.FloatRange(min=0), default=0.0, metavar="M",
    help="Begin no round that would end later than this after the first began.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Try every step with tiny files; times say nothing.")
@_scratch
def file_systems(
    json_file: Path | None,
    report: Path | None,
    rounds: int,
    workloads: tuple[str, ...],
    minutes: float,
    quick: bool,
    scratch: Path,
) -> None:
    """Files through the mount, beside other file systems and clients."""
    _check(json_file, report)
    options = FsOptions(
        environment=_environment(),
        command=["hotstart", *sys.argv[1:]],
        rounds=rounds,
        minutes=minutes,
        workloads=frozenset(workloads),
        sizes=QUICK if quick else FULL,
        scratch=scratch,
    )
    with interrupted_by(), progress() as sink:
        result = run_fs(options, sink)
    _show(lambda _: fs_tables(result))
    keep(result, json_file, report, write_fs_report)


def _environment() -> dict[str, str]:
    """Return what agents of a run get: several run at once, and one address is one agent's."""
    return {name: value for name, value in os.environ.items() if name != METRICS_VARIABLE}


def _check(json_file: Path | None, report: Path | None) -> None:
    """Refuse what could not be carried out, before anything is measured."""
    require_root("hotstart bench")
    check_places(json_file, report)


def _show(draw: Callable[[int], Sequence[Table]]) -> None:
    """Print the tables that ``draw`` makes for a terminal of so many columns."""
    from rich.console import Console  # only where tables are drawn

    console = Console()
    for table in draw(console.width):
        console.print(table)
