"""A result as tables for a terminal. Renders values; whoever owns the terminal prints them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from bench.samples import is_ours
from bench.targets import verdict

MEGABYTE = 1e6
QUICK_MS = 10_000.0
"""Below this, milliseconds are easier to compare than seconds."""
_ONE_LINE = 88
"""Columns of a terminal in which a gain and what it is compared with fit beside the rest."""
_FIGURES = 49
"""Columns that all but the path take where a gain has two lines."""
_GAIN = 13
"""Of which the gain takes so many."""
_SHORTEST_PATH = 11
"""Columns of the longest part of a path's name between hyphens."""


def tables(result: Mapping[str, Any], width: int) -> list[Table]:
    """Return what a person sees of a cold-start result in ``width`` columns, in reading order."""
    return [paths_table(result, width), targets_table(result)]


def paths_table(result: Mapping[str, Any], width: int) -> Table:
    """Return one row for each path, in the order in which they were measured.

    Nothing is left out in 60 columns or more: names and gains take a second line before that.
    """
    failed = [
        f"{path}: {count(row)}" for path, row in result["summary"].items() if row.get("failed")
    ]
    table = Table(
        title="First correct answer",
        caption="; ".join(failed) or None,
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("path", no_wrap=True)
    for name in ("median", "p99", "n", "command", "fetched", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    for path, row in result["summary"].items():
        gain = comparison(path, result["ratios"])
        table.add_row(
            textwrap.fill(path, max(_SHORTEST_PATH, width - _FIGURES)),
            milliseconds(row["median_ms"]),
            milliseconds(row["p99_ms"]),
            str(row["n"]),
            milliseconds(row.get("median_wall_ms")),
            megabytes(row.get("median_fetched_bytes")),
            gain if width >= _ONE_LINE else _folded(gain),
        )
    return table


def _folded(gain: str) -> str:
    return "\n".join(textwrap.fill(word, _GAIN) for word in gain.split())


def targets_table(result: Mapping[str, Any]) -> Table:
    """Return one row for each target, met or not."""
    table = Table(title="Targets")
    table.add_column("target", overflow="fold")  # the only one that may be folded
    for name in ("wanted", "measured", "met"):
        table.add_column(name, justify="right", no_wrap=True)
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
