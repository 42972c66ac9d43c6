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


def script():
    return (CHECKOUT / ".ci/run").read_text()


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


def test_the_readme_names_the_command_that_ci_runs():
    (target,) = re.findall(r"^exec make .*\b(\w+) </dev/null$", script(), re.MULTILINE)
    assert f"`make {target}`" in (CHECKOUT / "README.md").read_text()


def test_tests_that_contributing_names_exist():
    named = re.findall(r"`(test_\w+)`", (CHECKOUT / "CONTRIBUTING.md").read_text())
    defined = "\n".join(path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    assert named
    assert [name for name in named if f"def {name}(" not in defined] == []


def test_ci_runs_the_same_tests_and_lets_none_be_skipped():
    assert "REQUIRE_KERNEL_TESTS=1" in script()
    assert re.search(r"^exec make .*\btest </dev/null$", script(), re.MULTILINE)
    assert os.access(CHECKOUT / ".ci/run", os.X_OK)
