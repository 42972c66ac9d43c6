"""What the cold-start scenario must reach, and whether a result does.

Each target is a figure of one result and a limit. Ratios are of medians within one run, so that
they hold on machines of any speed. A figure that was not measured is neither met nor missed; one
whose paths gave a wrong answer, or too few right ones, is missed whatever its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """``section``/``figure`` of a result compared with ``limit``."""

    title: str
    section: Literal["ratios", "extra", "bounds"]
    figure: str
    bound: Literal["at least", "at most", "below"]
    limit: float
    path: str = ""
    """Whose samples a figure of ``extra`` is made of, where it is a path's."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths whose samples the figure is made of."""
        if self.section == "ratios":
            return tuple(self.figure.split("/"))
        return (self.path,) if self.path else ()

    def met_by(self, value: float) -> bool:
        """Whether ``value`` reaches the target."""
        if self.bound == "at least":
            return value >= self.limit
        return value <= self.limit if self.bound == "at most" else value < self.limit


TARGETS = (
    Target("cold start over restore", "ratios", "cold/restore", "at least", 25),
    Target("restore over plain CRIU", "ratios", "restore/criu-plain", "at most", 0.6),
    Target("cold start from the mount over ext4", "ratios", "hotstart-cold/cold", "at most", 1.1),
    Target(
        "pull and start over restore on an empty node",
        "ratios",
        "pull-and-cold/restore-empty-node",
        "at least",
        8,
    ),
    Target(
        "the same, first request never recorded",
        "ratios",
        "pull-and-cold/restore-empty-node-unrecorded",
        "at least",
        3,
    ),
    Target(
        # Never slower; both do the same work, so a twentieth is left to chance.
        "pull and start over a start without any recording",
        "ratios",
        "pull-and-cold/lazy-cold-unrecorded",
        "at least",
        0.95,
    ),
    Target(
        "bytes fetched of image and snapshot, recorded",
        "extra",
        "empty_node_fetched_share",
        "at most",
        0.20,
        path="restore-empty-node",
    ),
    Target(
        "bytes fetched of image and snapshot, never recorded",
        "extra",
        "empty_node_unrecorded_fetched_share",
        "at most",
        0.20,
        path="restore-empty-node-unrecorded",
    ),
    Target("warm sequential read over ext4", "extra", "warm_read_ratio", "at least", 0.9),
    Target("import torch through the mount over ext4", "extra", "import_ratio", "at most", 1.1),
    Target("build, MB/s of input a core", "extra", "build_mb_per_s_per_core", "at least", 150),
    Target("upload of a rebuild after one file", "extra", "rebuild_upload_share", "below", 0.03),
)


LEAST_SAMPLES = 5
"""A median of fewer is no figure to judge by."""


def outcomes(
    result: Mapping[str, Any], targets: Sequence[Target] = TARGETS
) -> list[dict[str, Any]]:
    """Return each target with what was measured; ``met`` is None where nothing was.

    ``reason`` says why a target is missed whose samples are wrong or too few.
    """
    rows = []
    for target in targets:
        value = result.get(target.section, {}).get(target.figure)
        measured = [result["summary"].get(path) for path in target.paths]
        reason = "" if None in measured else shortfall(measured)
        met = None if value is None else target.met_by(value)
        rows.append(
            {
                "title": target.title,
                "figure": target.figure,
                "wanted": f"{target.bound} {target.limit:g}",
                "measured": value,
                "met": False if reason else met,
                "reason": reason,
            }
        )
    return rows


def shortfall(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return why medians of these paths prove nothing, from their rows of the summary, or ""."""
    if failed := sum(row.get("failed", 0) for row in measured):
        return f"{failed} failed"
    return "n too small" if any(row["n"] < LEAST_SAMPLES for row in measured) else ""


def verdict(row: Mapping[str, Any]) -> str:
    """Say whether a target is met, as people read it."""
    word = {True: "yes", False: "no", None: "-"}[row["met"]]
    return f"{word} ({row['reason']})" if row.get("reason") else word
