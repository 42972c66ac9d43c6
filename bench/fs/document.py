"""The result document of ``fs``: samples, medians, paired comparisons with bounds, targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.fs.mount_scale import MountImage
from bench.fs.options import LINKS, FsOptions, Sizes
from bench.paired import compare, pairs
from bench.samples import Sample, summarize
from bench.targets import Target, outcomes

SCENARIO = "fs"
OURS = ("hotstart", "hotstart-fuse")


def targets(sizes: Sizes) -> tuple[Target, ...]:
    """Return what must be reached. Ratios are counted by their worse bound."""
    rows = []
    for link in LINKS:
        cold = f"cold sequential read, {link}"
        rows += [
            Target(
                f"{cold}, of the raw client", "bounds", f"sequential/{link}/raw", "at least", 0.85
            ),
            Target(f"{cold}, over rclone", "bounds", f"sequential/{link}/rclone", "at least", 3),
            Target(f"{cold}, over s3fs", "bounds", f"sequential/{link}/s3fs", "at least", 3),
            Target(
                f"first 4 KiB, {link}, p50 minus raw GET, ms",
                "bounds", f"first-4k/{link}/p50_ms", "at most", 3,
            ),
            Target(
                f"the same, {sizes.readers} readers, p99, ms",
                "bounds", f"first-4k/{link}/busy_p99_ms", "at most", 5,
            ),
        ]  # fmt: skip
    rows += [
        Target("warm read, of ext4", "bounds", "warm-read/ext4", "at least", 0.95),
        Target("metadata walk, warm, of ext4", "bounds", "walk-warm/ext4", "at least", 0.9),
        Target("random faults, in memory, of ext4", "bounds", "mmap-warm/ext4", "at least", 0.9),
        Target("random faults, on disk, of ext4", "bounds", "mmap-local/ext4", "at least", 0.9),
        Target(f"mount of {sizes.files[-1]} files, ms", "bounds", "mount/ms", "at most", 30),
        Target("the same, much data over little", "bounds", "mount/data", "at most", 1.25),
    ]
    return tuple(rows)


def document(
    facts: Mapping[str, Any],
    options: FsOptions,
    samples: Sequence[Sample],
    absent: Mapping[str, str],
    tunings: Mapping[str, str],
) -> dict[str, Any]:
    """Return the result document of a run."""
    compared = comparisons(samples, options.sizes)
    result = {
        "scenario": SCENARIO,
        "environment": dict(facts),
        "link": options.link.as_dict(),
        "sizes": sizes_of(options.sizes),
        "absent": dict(absent),
        "samples": [sample.as_dict() for sample in samples],
        "summary": summarize(samples),
        "comparisons": compared,
        "bounds": {name: row["bound"] for name, row in compared.items()},
        "extra": {"raw_client_tuning": dict(tunings)},
    }
    return result | {"targets": outcomes(result, targets(options.sizes))}


def sizes_of(sizes: Sizes) -> dict[str, Any]:
    """Return the sizes as the document has them."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(sizes)))  # tuples as lists
    return found


def comparisons(samples: Sequence[Sample], sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return each paired comparison by name: how many times quicker we are, or how much later."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, values: Sequence[float], bound: str) -> None:
        compared = compare(values)
        if compared is not None:
            row = compared.as_dict()
            found[name] = row | {"bound": row[bound], "which": bound}

    def time_ratio(workload: str, place: str, other: str, ours: str) -> list[float]:
        ratio = pairs(samples, f"{workload}/{other}", f"{workload}/{place}/{ours}", _ready)
        return [theirs / mine for theirs, mine in ratio]

    for ours in OURS:
        suffix = "" if ours == "hotstart" else " (FUSE)"
        for link in LINKS:
            for workload in ("sequential", "mmap-random", "walk", "import", "safetensors"):
                for other in ("raw", "obstore", "s5cmd", "rclone", "s3fs"):
                    ratio = time_ratio(workload, link, f"{link}/{other}", ours)
                    add(f"{workload}/{link}/{other}{suffix}", ratio, "lower")
            for figure in ("p50_ms", "busy_p99_ms"):
                both = pairs(
                    samples, f"first-4k/{link}/{ours}", f"first-4k/{link}/raw", _phase(figure)
                )
                late = [mine - raw for mine, raw in both]
                add(f"first-4k/{link}/{figure}{suffix}", late, "upper")
        for workload in ("warm-read", "walk-warm", "import-warm", "mmap-warm", "mmap-local"):
            add(
                f"{workload}/ext4{suffix}",
                time_ratio(workload, "loopback", "local/ext4", ours),
                "lower",
            )
    _add_mounts(samples, sizes, add)
    return found


def _add_mounts(
    samples: Sequence[Sample], sizes: Sizes, add: Callable[[str, Sequence[float], str], None]
) -> None:
    most = MountImage(sizes.files[-1], sizes.data[0]).name
    large = MountImage(sizes.files[-1], sizes.data[-1]).name
    both = pairs(samples, large, most, _ready)
    add("mount/ms", [little for _, little in both], "upper")
    add("mount/data", [much / little for much, little in both], "upper")


def _ready(sample: Sample) -> float:
    return sample.ready_ms


def _phase(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.phases[name]
