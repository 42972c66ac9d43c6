"""The pictures of a result, as SVG text. Needs matplotlib (the extra ``bench``); no display.

Pictures are drawn with the Agg-free SVG canvas and hold no random ids, so that the same result
gives the same picture.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.samples import is_ours
from hotstart.core.errors import Unsupported

OURS = "#1f6f8b"
THEIRS = "#b0b7bd"
SPREAD = "#20262b"
LARGEST_PHASES = 7
SPLIT = 5.0
"""Paths this many times quicker than the slowest get a picture with a scale of their own."""

Phases = Mapping[str, float]


class PlotsUnavailable(Unsupported):
    """matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("the report needs matplotlib: install hotstart with the extra 'bench'")


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes; inches. Raises PlotsUnavailable."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as err:
        raise PlotsUnavailable from err
    mpl.rcParams["svg.hashsalt"] = "hotstart"
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg_text(figure: Any) -> str:  # noqa: ANN401  (matplotlib carries no types)
    """Return the figure as SVG, the same for the same figure."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def ready_plot(result: Mapping[str, Any]) -> str:
    """Return medians as bars on a logarithmic scale, and every sample as a dot."""
    rows = {p: row for p, row in result["summary"].items() if row["median_ms"] is not None}
    figure, axes = new_figure(9, 0.45 * len(rows) + 1.2)
    for place, (path, row) in enumerate(rows.items()):
        axes.barh(place, row["median_ms"], color=OURS if is_ours(path) else THEIRS, height=0.62)
        dots = [s["ready_ms"] for s in _good(result["samples"], path)]
        axes.scatter(dots, [place] * len(dots), color=SPREAD, s=9, zorder=3)
        axes.annotate(f" {row['median_ms']:.0f} ms", (max(dots), place), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("ms from the request to the first correct answer (bar: median, dots: samples)")
    axes.spines[["top", "right"]].set_visible(False)
    return svg_text(figure)


def phase_plots(result: Mapping[str, Any]) -> list[str]:
    """Return the phases of the slow paths and of the quick ones, stacked, one picture each."""
    medians = {
        path: median_phases(_good(result["samples"], path))
        for path, row in result["summary"].items()
        if row["median_ms"] is not None
    }
    totals = {path: sum(phases.values()) for path, phases in medians.items()}
    if not totals:
        return []
    border = max(totals.values()) / SPLIT
    slow = {path: medians[path] for path, total in totals.items() if total > border}
    quick = {path: medians[path] for path, total in totals.items() if total <= border}
    return [_stacked(group) for group in (slow, quick) if group]


def median_phases(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median of each phase; the smallest ones together as ``other``."""
    names = dict.fromkeys(name for sample in samples for name in sample["phases"])
    medians = {
        name: statistics.median(sample["phases"].get(name, 0.0) for sample in samples)
        for name in names
    }
    ranked = sorted(medians, key=lambda name: -medians[name])
    kept = [name for name in medians if name in ranked[:LARGEST_PHASES]]
    other = sum(medians[name] for name in ranked[LARGEST_PHASES:])
    return {name: medians[name] for name in kept} | ({"other": other} if other else {})


def _stacked(medians: Mapping[str, Phases]) -> str:
    import matplotlib as mpl

    figure, axes = new_figure(9, 0.5 * len(medians) + 2.4)
    names = list(dict.fromkeys(name for phases in medians.values() for name in phases))
    colours = mpl.colormaps["tab20"]
    for index, name in enumerate(names):
        lefts = [_before(phases, name) for phases in medians.values()]
        widths = [phases.get(name, 0.0) for phases in medians.values()]
        label = name.removesuffix("_ms").replace("_", " ")
        axes.barh(list(medians), widths, left=lefts, label=label, color=colours(index % 20))
    axes.invert_yaxis()
    axes.set_xlabel("ms (medians of the phases)")
    axes.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return svg_text(figure)


def _before(phases: Phases, name: str) -> float:
    total = 0.0
    for other, value in phases.items():
        if other == name:
            return total
        total += value
    return total


def _good(samples: Sequence[Mapping[str, Any]], path: str) -> list[Mapping[str, Any]]:
    return [
        sample
        for sample in samples
        if sample["path"] == path and sample["answer_ok"] and sample["ready_ms"] is not None
    ]
