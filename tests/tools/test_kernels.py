"""What counts as a passed run of another kernel: nothing that went missing passes."""

import json

import pytest

from tools.kernels.initramfs import _entry
from tools.kernels.machine import Outcome
from tools.kernels.main import EXPECTED, judge

PASSED = '<testcase name="a"/>'


def skipped(reason):
    return f'<testcase name="s"><skipped message="{reason}"/></testcase>'


@pytest.fixture
def ended(tmp_path):
    """Return a function that makes the outcome of a run of 6.1."""

    def make(*cases, status=0, timed_out=False, source="loop devices", route="fuse"):
        (tmp_path / "report.xml").write_text(f"<testsuites>{''.join(cases)}</testsuites>")
        told = {
            "filler": {"route": route, "why": "w"},
            "mounted_from": {"route": source, "why": "w"},
        }
        (tmp_path / "doctor.json").write_text(json.dumps(told))
        return judge(Outcome(status, timed_out, tmp_path), EXPECTED["6.1"])

    return make


def test_a_run_passes_with_the_skips_that_its_kernel_excuses(ended):
    assert ended(PASSED, skipped("fanotify_pre_content: Invalid argument")) == []


def test_a_skip_for_anything_else_fails(ended):
    (problem,) = ended(PASSED, skipped("fuse: no libfuse"))
    assert "fuse: no libfuse" in problem


def test_a_guest_that_hangs_or_ends_early_fails(ended):
    assert ended(PASSED, status=None) == ["the guest ended before its tests did"]
    assert ended(PASSED, timed_out=True) == ["the guest did not end in time"]


def test_failed_tests_no_tests_and_a_strange_status_fail(ended):
    failed = '<testcase name="f"><failure message="no"/></testcase>'
    assert ended(PASSED, failed, status=1) == ["1 tests failed"]
    assert ended(skipped("fanotify_pre_content: no")) == ["no test passed"]
    assert ended(PASSED, status=2) == ["pytest ended with status 2"]


def test_another_route_than_the_kernels_fails(ended):
    assert ended(PASSED, source="files") == ["doctor should say fuse from loop devices"]


def test_an_archive_entry_is_aligned_and_says_its_sizes():
    entry = _entry("bin/x", 0o100755, b"12345")
    assert entry.startswith(b"070701")
    assert int(entry[54:62], 16) == 5
    assert len(entry) % 4 == 0
