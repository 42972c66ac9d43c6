"""A result as Markdown: what a README shows, with the command that made it and where it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.tables import comparison, count, megabytes, milliseconds
from bench.targets import verdict

GIB = 1 << 30


def summary(result: Mapping[str, Any]) -> str:
    """Return command, conditions, and the tables of paths and targets."""
    paths = [
        (
            f"`{path}`",
            milliseconds(row["median_ms"]),
            milliseconds(row["p99_ms"]),
            count(row),
            megabytes(row.get("median_fetched_bytes")),
            comparison(path, result["ratios"]),
        )
        for path, row in result["summary"].items()
    ]
    return "\n".join(
        [
            f"    {' '.join(result['environment']['command'])}",
            "",
            conditions(result),
            "",
            *markdown_table(("path", "median", "p99", "n", "fetched", "gain"), paths),
            "",
            *targets_markdown(result),
            "",
        ]
    )


def targets_markdown(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of targets."""
    rows = [
        (
            row["title"],
            row["wanted"],
            "not measured" if row["measured"] is None else f"{row['measured']:.3g}",
            verdict(row),
        )
        for row in result["targets"]
    ]
    return markdown_table(("target", "wanted", "measured", "met"), rows)


def conditions(result: Mapping[str, Any]) -> str:
    """Return one sentence: where a run was made, at which commit, under which load."""
    facts = result["environment"]
    before, after = facts["load_average_before"][0], facts.get("load_average_after", [None])[0]
    return (
        f"{facts['distribution']}, kernel {facts['kernel']}, {facts['cpus']} cores of "
        f"{facts['cpu']}, {facts['memory_bytes'] / GIB:.0f} GiB, {facts['file_system']}; "
        f"commit {facts['commit']}; load {before} before, {after} after."
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
