"""A result as tables for a terminal. Renders values; whoever owns the terminal prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from bench.samples import is_ours
from bench.targets import verdict

MEGABYTE = 1e6
QUICK_MS = 10_000.0
"""Below this, milliseconds are easier to compare than seconds."""


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return what a person wants to see of a cold-start result, in reading order."""
    return [paths_table(result), targets_table(result)]


def paths_table(result: Mapping[str, Any]) -> Table:
    """Return one row for each path, in the order in which they were measured."""
    table = Table(title="First correct answer")
    table.add_column("path", no_wrap=True)
    for name in ("median", "p99", "n", "command", "fetched"):
        table.add_column(name, justify="right", no_wrap=name != "n")
    table.add_column("gain", justify="right")  # what is folded first on a narrow terminal
    for path, row in result["summary"].items():
        table.add_row(
            path,
            milliseconds(row["median_ms"]),
            milliseconds(row["p99_ms"]),
            count(row),
            milliseconds(row.get("median_wall_ms")),
            megabytes(row.get("median_fetched_bytes")),
            comparison(path, result["ratios"]),
        )
    return table


def targets_table(result: Mapping[str, Any]) -> Table:
    """Return one row for each target, met or not."""
    table = Table(title="Targets")
    table.add_column("target")
    for name in ("wanted", "measured", "met"):
        table.add_column(name, justify="right")
    for row in result["targets"]:
        measured = "not measured" if row["measured"] is None else f"{row['measured']:.3g}"
        table.add_row(row["title"], row["wanted"], measured, _verdict(row))
    return table


def _verdict(row: Mapping[str, Any]) -> Text:
    style = {True: "green", False: "bold red", None: ""}[row["met"]]
    return Text(verdict(row), style=style)


def count(row: Mapping[str, Any]) -> str:
    """Say how many samples a path's figures are of, and how many starts failed."""
    return str(row["n"]) + (f" (+{row['failed']} failed)" if row.get("failed") else "")


def comparison(path: str, ratios: Mapping[str, float]) -> str:
    """Say how a path of ours compares with what people have today: ``24.1x cold``."""
    for name, ratio in ratios.items():
        above, _, below = name.partition("/")
        if below == path and is_ours(path) and not is_ours(above):
            return f"{ratio:.1f}x {above}"
    return ""


def milliseconds(value: float | None) -> str:
    """Return a time as people read it."""
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < QUICK_MS else f"{value / 1e3:.1f} s"


def megabytes(value: float | None) -> str:
    """Return an amount of bytes as people read it; nothing for nothing."""
    return f"{value / MEGABYTE:.1f} MB" if value else ""
