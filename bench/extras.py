"""Figures beside the starts: how fast a warm mount is, compared with the same files on ext4.

Both sides are warm: each is read once before it is measured, and the two alternate. Reads are the
largest files of the tree, in sequence, by one thread, out of a page cache that such a read has
filled: how fast cached pages are read depends on how large they are, and so on who read them
first, which for the mount may have been a restore and for ext4 the unpacking. Imports run in a
container of the same runtime, once from the mounted image and once from the unpacked tree.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.page_cache import forget_file, read_file
from bench.peer_container import PeerProgram
from bench.peers import PeerStage
from bench.workload.tree import DemoTree

READ_BYTES = 512 << 20
"""Read at least this much of the largest files."""

IMPORT = ("/usr/bin/python3", "-c", "import torch")


def warm_read_figures(tree: Path, mount: Path, rounds: int) -> dict[str, float]:
    """Return the throughput of both in megabytes (10^6) a second, and their ratio."""
    files = largest_files(tree, READ_BYTES)
    for name in files:
        forget_file(tree / name)
        forget_file(mount / name)
    ext4, mounted = alternate(
        lambda: _rate([tree / name for name in files]),
        lambda: _rate([mount / name for name in files]),
        rounds,
    )
    return {
        "warm_read_ext4_mb_per_s": round(statistics.median(ext4), 1),
        "warm_read_mount_mb_per_s": round(statistics.median(mounted), 1),
        "warm_read_ratio": round(statistics.median(mounted) / statistics.median(ext4), 4),
    }


def import_figures(tree: DemoTree, mount: Path, stage: PeerStage, rounds: int) -> dict[str, float]:
    """Return the milliseconds of ``import torch`` in a container from both, and their ratio."""
    environment = tuple(f"{name}={value}" for name, value in tree.environment.items())
    ext4, mounted = alternate(
        lambda: stage.time_to_end(PeerProgram(tree.root, IMPORT, environment)),
        lambda: stage.time_to_end(PeerProgram(mount, IMPORT, environment)),
        rounds,
    )
    return {
        "import_ext4_ms": round(statistics.median(ext4), 1),
        "import_mount_ms": round(statistics.median(mounted), 1),
        "import_ratio": round(statistics.median(mounted) / statistics.median(ext4), 4),
    }


def alternate(
    first: Callable[[], float], second: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Warm both up, then measure them in turn, the order turning round each round."""
    first()
    second()
    values: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        sides = [(0, first), (1, second)]
        for side, measure in sides if number % 2 == 0 else reversed(sides):
            values[side].append(measure())
    return values


def largest_files(tree: Path, least_bytes: int) -> list[Path]:
    """Return the largest regular files, as paths relative to ``tree``, that hold so much."""
    sizes = sorted(
        (
            (path.stat().st_size, path.relative_to(tree))
            for path in tree.rglob("*")
            if path.is_file() and not path.is_symlink()
        ),
        reverse=True,
    )
    chosen: list[Path] = []
    total = 0
    for size, name in sizes:
        if total >= least_bytes:
            break
        chosen.append(name)
        total += size
    return chosen


def _rate(files: Sequence[Path]) -> float:
    started_s = time.perf_counter()
    total = sum(read_file(path) for path in files)
    return total / (time.perf_counter() - started_s) / 1e6
