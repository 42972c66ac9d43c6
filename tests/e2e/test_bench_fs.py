"""``hotstart bench fs --quick``: every step with tiny files; shapes and checks, never times."""

import json
import math

import pytest

from bench.fs import programs
from hotstart.core.errors import Unsupported
from tests.requires import requires

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.s3,
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


def bench(hotstart, scratch, *workloads):
    report, words = scratch / "report", []
    for name in workloads:
        words += ["--workload", name]
    hotstart.ok(
        "bench", "fs", "--quick", "--rounds", "1", "--scratch", scratch,
        "--json", scratch / "result.json", "--report", report, *words,
    )  # fmt: skip
    result = json.loads((scratch / "result.json").read_text())
    assert (report / "summary.md").read_text().startswith("    hotstart bench fs")
    assert not list(scratch.glob("hsf-*")), "the run's directory is gone"
    return result


def test_every_way_to_the_files_gives_the_bytes_of_the_source(hotstart, scratch):
    result = bench(hotstart, scratch, "first-4k", "sequential", "safetensors", "mmap-local")
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


def test_images_of_every_size_are_mounted(hotstart, scratch):
    result = bench(hotstart, scratch, "mount")
    assert [s["answer_ok"] for s in result["samples"]] == [True] * 4
    assert all(s["phases"]["memory_mib"] > 0 for s in result["samples"])
    assert "mount/ms" in result["comparisons"]
