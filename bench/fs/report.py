"""A result of ``fs`` as tables for a terminal, as Markdown and as pictures.

DIR/result.json  the whole document     DIR/summary.md  tables     DIR/*.svg  pictures
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.fs.options import WORKLOADS
from bench.markdown import conditions, markdown_table, targets_markdown
from bench.plots import OURS, THEIRS, new_figure, svg_text
from bench.tables import milliseconds, targets_table

_SIZED = {
    "sequential": "sequential",
    "warm-read": "sequential",
    "safetensors": "weights",
}
"""Workloads that read so many bytes: their table also has the rate."""


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return what a person wants to see, in reading order."""
    made = []
    for workload in WORKLOADS:
        head, rows = _rows(result, workload)
        if rows:
            table = Table(title=workload)
            for name in head:
                table.add_column(name)
            for row in rows:
                table.add_row(*row)
            made.append(table)
    return [*made, targets_table(result)]


def write_report(result: Mapping[str, Any], directory: Path) -> Path:
    """Write everything into ``directory`` (made if need be); return the path of the summary."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, picture in pictures(result).items():
        (directory / name).write_text(picture)
    page = directory / "summary.md"
    page.write_text(summary(result))
    return page


def summary(result: Mapping[str, Any]) -> str:
    """Return command, conditions, and every table as Markdown."""
    facts = result["environment"]
    lines = [f"    {' '.join(facts['command'])}", "", conditions(result), ""]
    lines += [f"{name}: absent, {reason}." for name, reason in result["absent"].items()]
    lines += ["", *targets_markdown(result), ""]
    for workload in WORKLOADS:
        head, rows = _rows(result, workload)
        if rows:
            lines += [f"### {workload}", "", *markdown_table(head, rows), ""]
    lines += ["### paired comparisons", "", *_comparisons(result), ""]
    return "\n".join(lines)


def _comparisons(result: Mapping[str, Any]) -> list[str]:
    rows = [
        (name, f"{row['median']:.3g}", f"{row['lower']:.3g}", f"{row['upper']:.3g}", str(row["n"]))
        for name, row in result["comparisons"].items()
    ]
    return markdown_table(("ours against", "median", "lower 95 %", "upper 95 %", "n"), rows)


def _rows(
    result: Mapping[str, Any], workload: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the table of one workload: heading and one row for each path."""
    figures = _figure_names(result, workload)
    head = ("over", "path", "median", "slowest", "n", *(_heading(name) for name in figures))
    rate = workload in _SIZED
    rows = []
    for name, row in result["summary"].items():
        if not name.startswith(f"{workload}/"):
            continue
        _, link, path = name.split("/", 2)
        failed = f" (+{row['failed']} failed)" if row.get("failed") else ""
        cells = [
            link,
            path,
            _time(row["median_ms"]),
            _time(row.get("max_ms")),
            f"{row['n']}{failed}",
        ]
        cells += [_median_figure(result, name, figure) for figure in figures]
        if rate:
            size = result["sizes"][_SIZED[workload]]
            cells.append(f"{size / row['median_ms'] / 1e3:.0f}" if row["median_ms"] else "-")
        rows.append(tuple(cells))
    return ((*head, "MB/s") if rate else head), sorted(rows)


def _time(value: float | None) -> str:
    """Return a time as people read it; a short one with its digits."""
    if value is not None and value < 100:
        return f"{value:.3g} ms"
    return milliseconds(value)


def _heading(name: str) -> str:
    return name.replace("_", " ").replace(" ms", ", ms").replace(" us", ", µs")


def _figure_names(result: Mapping[str, Any], workload: str) -> list[str]:
    found = [s for s in result["samples"] if s["path"].startswith(f"{workload}/")]
    return list(dict.fromkeys(name for sample in found for name in sample["phases"]))


def _median_figure(result: Mapping[str, Any], path: str, figure: str) -> str:
    values = sorted(
        s["phases"][figure]
        for s in result["samples"]
        if s["path"] == path and s["answer_ok"] and figure in s["phases"]
    )
    return f"{values[len(values) // 2]:.3g}" if values else "-"


def pictures(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the pictures by file name: medians of each workload, and mounts by size."""
    made = {}
    for workload in WORKLOADS:
        rows = {
            name.partition("/")[2]: row
            for name, row in result["summary"].items()
            if name.startswith(f"{workload}/") and row["median_ms"] is not None
        }
        if rows:
            made[f"fs-{workload}.svg"] = _bars(result, workload, rows)
    return made


def _bars(result: Mapping[str, Any], workload: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    figure, axes = new_figure(9, 0.36 * len(rows) + 1.2)
    for place, (name, row) in enumerate(sorted(rows.items())):
        ours = "hotstart" in name or workload == "mount"
        axes.barh(place, row["median_ms"], color=OURS if ours else THEIRS, height=0.62)
        low, high = row["min_ms"], row["max_ms"]
        axes.plot([low, high], [place, place], color="#20262b", linewidth=1)
        axes.annotate(f" {_time(row['median_ms'])}", (high, place), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), sorted(rows))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(f"{workload}: ms (bar: median, line: fastest to slowest)")
    axes.spines[["top", "right"]].set_visible(False)
    return svg_text(figure)
