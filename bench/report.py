"""A result as a page: one HTML file that needs nothing else, its pictures and data beside it.

DIR/index.html     everything, pictures inlined     DIR/result.json   the whole document
DIR/ready.svg      medians and samples              DIR/phases-N.svg  phases, stacked
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.markdown import summary
from bench.plots import phase_plots, ready_plot
from bench.tables import count, megabytes, milliseconds
from bench.targets import verdict

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #20262b }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #dde2e6 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.no { color: #b3261e; font-weight: 600 } svg { max-width: 100%; height: auto }
"""


def write_report(result: Mapping[str, Any], directory: Path) -> Path:
    """Write the page into ``directory`` (made if need be) and return the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    ready = ready_plot(result)
    phases = phase_plots(result)
    (directory / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (directory / "summary.md").write_text(summary(result))
    (directory / "ready.svg").write_text(ready)
    for number, picture in enumerate(phases, start=1):
        (directory / f"phases-{number}.svg").write_text(picture)
    page = directory / "index.html"
    page.write_text(_page(result, ready, phases))
    return page


def _page(result: Mapping[str, Any], ready: str, phases: Sequence[str]) -> str:
    pictures = "\n".join(_inline(picture) for picture in phases)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Hotstart: cold start</title>
<style>{STYLE}</style></head><body>
<h1>From the request to the first correct answer</h1>
{_inline(ready)}
{_paths(result)}
{_targets(result)}
<h2>Where the time goes</h2>
{pictures}
<h2>Conditions</h2>
{_facts("Link", result["link"])}
{_facts("Environment", result["environment"])}
{_facts("Further figures", result["extra"])}
</body></html>
"""


def _inline(svg: str) -> str:
    """Return the picture without the XML prologue, which HTML does not take."""
    return svg[svg.index("<svg") :]


def _paths(result: Mapping[str, Any]) -> str:
    rows = [
        (
            path,
            milliseconds(row["median_ms"]),
            milliseconds(row["p99_ms"]),
            count(row),
            milliseconds(row.get("median_wall_ms")),
            megabytes(row.get("median_fetched_bytes")),
        )
        for path, row in result["summary"].items()
    ]
    return _table("Paths", ("path", "median", "p99", "n", "command", "fetched"), rows)


def _targets(result: Mapping[str, Any]) -> str:
    rows = [
        (
            row["title"],
            row["wanted"],
            "not measured" if row["measured"] is None else f"{row['measured']:.3g}",
            verdict(row),
        )
        for row in result["targets"]
    ]
    return _table("Targets", ("target", "wanted", "measured", "met"), rows)


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = [(name.replace("_", " "), _fact(value)) for name, value in facts.items()]
    return _table(title, ("", ""), rows)


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(word)}</th>" for word in head)
    body = "\n".join(
        "<tr>" + "".join(_cell(number, text) for number, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{html.escape(title)}</caption><tr>{titles}</tr>\n{body}</table>"


def _cell(number: int, text: str) -> str:
    kind = (
        ' class="no"'
        if text == "no" or text.startswith("no (")
        else ' class="number"'
        if number and text[:1].isdigit()
        else ""
    )
    return f"<td{kind}>{html.escape(text)}</td>"
