"""The test session's own promises: skips carry the probe's reason, and may be forbidden."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
TEST = '''
"""One test that this host cannot run."""
import pytest
from hotstart.kernel.features import PROBES, Probe

def fail(_host):
    raise OSError("this kernel is too old")

PROBES["veth"] = Probe(fail, "networks", needs_root=False)

@pytest.mark.{mark}
@pytest.mark.requires("veth")
def test_needs_veth():
    raise AssertionError("ran in spite of its needs")
'''


FAILING = '''
"""One test that fails after its daemon has said why."""
import pytest

@pytest.mark.kernel
def test_fails(tmp_path):
    (tmp_path / "agent.log").write_text("first\\nthe store answered 403\\n")
    raise AssertionError("no answer")
'''


@pytest.fixture
def outcome(tmp_path):
    """Run that test in a session of its own and return what pytest says."""

    def run(mark, text=TEST, **environment):
        test = tmp_path / "test_needs.py"
        test.write_text(text.replace("{mark}", mark))
        argv = [sys.executable, "-m", "pytest", "-q", "-rsE", "-p", "tests.conftest", str(test)]
        argv += ["--rootdir", str(CHECKOUT), "-c", str(CHECKOUT / "pyproject.toml")]
        argv += ["--basetemp", str(tmp_path / "inner")]
        environment = {"PATH": "/usr/bin:/bin", **environment}
        done = subprocess.run(
            argv, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    return run


def test_an_unmet_need_skips_with_the_reason_of_the_probe(outcome):
    status, text = outcome("s3")
    assert (status, "veth: this kernel is too old" in text) == (0, True)
    assert "1 skipped" in text


@pytest.mark.parametrize("mark", ["kernel", "s3", "e2e"])
def test_where_kernel_tests_are_required_a_skip_is_a_failure(outcome, mark):
    status, text = outcome(mark, REQUIRE_KERNEL_TESTS="1")
    assert status == 1
    assert "1 error" in text
    assert "REQUIRE_KERNEL_TESTS=1 allows no skip" in text


def test_a_unit_test_may_still_be_skipped(outcome):
    status, text = outcome("timeout(60)", REQUIRE_KERNEL_TESTS="1")
    assert (status, "1 skipped" in text) == (0, True)


@pytest.mark.kernel
def test_a_failure_shows_what_the_logs_said(outcome):
    status, text = outcome("kernel", FAILING)
    assert status == 1
    assert "agent.log" in text
    assert "the store answered 403" in text
