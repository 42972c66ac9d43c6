"""What the cold-start scenario must reach, and whether a result does.

Each target is a figure of one result and a limit. Ratios are of medians within one run, so that
they hold on machines of any speed. A figure that was not measured is neither met nor missed.
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
        "bytes fetched of image and snapshot, recorded",
        "extra",
        "empty_node_fetched_share",
        "at most",
        0.20,
    ),
    Target(
        "bytes fetched of image and snapshot, never recorded",
        "extra",
        "empty_node_unrecorded_fetched_share",
        "at most",
        0.20,
    ),
    Target("warm sequential read over ext4", "extra", "warm_read_ratio", "at least", 0.9),
    Target("import torch through the mount over ext4", "extra", "import_ratio", "at most", 1.1),
    Target("build, MB/s of input a core", "extra", "build_mb_per_s_per_core", "at least", 150),
    Target("upload of a rebuild after one file", "extra", "rebuild_upload_share", "below", 0.03),
)


def outcomes(
    result: Mapping[str, Any], targets: Sequence[Target] = TARGETS
) -> list[dict[str, Any]]:
    """Return each target with what was measured; ``met`` is None where nothing was."""
    rows = []
    for target in targets:
        value = result.get(target.section, {}).get(target.figure)
        rows.append(
            {
                "title": target.title,
                "figure": target.figure,
                "wanted": f"{target.bound} {target.limit:g}",
                "measured": value,
                "met": None if value is None else target.met_by(value),
            }
        )
    return rows
