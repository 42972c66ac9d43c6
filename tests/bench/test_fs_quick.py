"""``hotstart bench fs --quick``: every step with tiny files; shapes and checks, never times."""

import json
import math
import os
import sys
from pathlib import Path

import pytest

from bench.fs import programs
from hotstart.core.errors import Unsupported
from hotstart.core.run import run
from tests.requires import requires

SOURCE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.s3,
    pytest.mark.timeout(900),
    requires("fanotify_pre_content", "cache_file_system", "erofs_file_backed", "fuse"),
]


def absent():
    """Return the peers that are not on this machine: no test installs them."""
    found = []
    for name in programs.PACKAGES:
        try:
            programs.find(name)
        except Unsupported:
            found.append(name)
    return found


def bench(scratch, *workloads):
    report, words = scratch / "report", []
    for name in workloads:
        words += ["--workload", name]
    argv = [sys.executable, "-m", "cli.main", "bench", "fs", "--quick", "--rounds", "1"]
    argv += ["--json", scratch / "result.json", "--report", report, "--scratch", scratch, *words]
    run([str(word) for word in argv], env=dict(os.environ), cwd=SOURCE, timeout_s=800)
    result = json.loads((scratch / "result.json").read_text())
    assert " bench fs --quick" in (report / "summary.md").read_text()
    assert not list(scratch.glob("hsf-*")), "the run's directory is gone"
    return result


def test_every_way_to_the_files_gives_the_bytes_of_the_source(scratch):
    result = bench(scratch, "first-4k", "sequential", "safetensors", "mmap-local")
    assert sorted(result["absent"]) == sorted(absent())
    paths = {sample["path"] for sample in result["samples"]}
    for link in ("loopback", "link"):
        for name in ("hotstart", "hotstart-fuse", "raw", "obstore"):
            assert {f"{w}/{link}/{name}" for w in ("sequential", "safetensors")} <= paths
    assert "sequential/local/ext4" in paths
    wrong = [s for s in result["samples"] if not s["answer_ok"] or s["ready_ms"] is None]
    assert wrong == []
    assert all(math.isfinite(row["bound"]) for row in result["comparisons"].values())
    assert {row["met"] for row in result["targets"] if "sequential" in row["figure"]} <= {
        True, False, None,
    }  # fmt: skip


def test_images_of_every_size_are_mounted(scratch):
    result = bench(scratch, "mount")
    assert [s["answer_ok"] for s in result["samples"]] == [True] * 4
    assert all(s["phases"]["memory_mib"] > 0 for s in result["samples"])
    assert "mount/ms" in result["comparisons"]
