"""The targets that the README names, what they run, and what CI runs."""

import os
import re
from pathlib import Path

import pytest

from hotstart.core.run import run

CHECKOUT = Path(__file__).parents[2]
TARGETS = ("setup", "check", "test", "demo", "bench", "bench-fs", "peers", "soak")


def planned(target):
    """Return the commands that make would run."""
    environment = {"PATH": os.environ["PATH"]}
    return run(["make", "-n", target], cwd=CHECKOUT, env=environment).text.splitlines()


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_explained_and_does_its_own_set_up(target):
    text = run(["make", "help"], cwd=CHECKOUT, env={"PATH": os.environ["PATH"]}).text
    assert re.search(rf"^  make {target}\b.*\w", text, re.MULTILINE)
    assert planned(target)[0] == "python3 -m tools.setup"


def test_the_whole_test_run_leaves_out_only_the_long_ones():
    *before, last = planned("test")
    assert last.endswith('-m pytest -q -m "not soak"')
    assert [line for line in before if "ruff check" in line or "mypy" in line]


def test_a_check_runs_no_test_that_needs_the_kernel():
    last = planned("check")[-1]
    assert all(f"not {mark}" in last for mark in ("kernel", "s3", "e2e", "soak"))


def test_peers_are_installed_for_their_benchmark_alone():
    installs = "tools.bench_peers"
    assert any(installs in line for line in planned("bench-fs"))
    assert not any(installs in line for target in ("setup", "test") for line in planned(target))


def test_the_demo_measures_the_cold_start_and_writes_a_report():
    assert re.search(r"hotstart bench cold-start .*--report ", planned("demo")[-1])


def test_ci_runs_the_same_tests_and_lets_none_be_skipped():
    script = (CHECKOUT / ".ci/run").read_text()
    assert "REQUIRE_KERNEL_TESTS=1" in script
    assert re.search(r"^exec make .*\btest </dev/null$", script, re.MULTILINE)
    assert os.access(CHECKOUT / ".ci/run", os.X_OK)
