"""``make test-kernels``: the tests of lazy mounts under Debian's own 6.1 and 6.12 kernels.

    CACHE/KERNEL/               the unpacked kernel (debian_kernels)
    CACHE/run-KERNEL/           the last run: console.log, results/report.xml, results/doctor.json

A kernel's run passes only if its guest came to the end, every test passed, the only skips are for
abilities that the kernel is known to lack, and doctor takes the route that belongs to it. Under
TCG, where the host has no usable KVM, the same tests run, under a longer limit; the output says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hotstart.core.errors import HotstartError
from tools import system_packages
from tools.kernels import debian_kernels, machine
from tools.kernels.machine import Outcome

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("kmod", "qemu-system-x86")
TESTS = (
    "tests/kernel/test_loop.py",
    "tests/kernel/test_mounts.py",
    "tests/lazyfs/test_fuse_filler.py",
    "tests/lazyfs/test_image_mounts.py",
    "tests/lazyfs/test_old_kernels.py",
    "tests/e2e/test_mount_route.py",
)
FEWER_TESTS = (
    "tests/kernel/test_loop.py",
    "tests/lazyfs/test_fuse_filler.py::test_files_read_through_fuse_are_those_of_the_tree",
    "tests/lazyfs/test_image_mounts.py::test_a_mounted_image_reads_as_its_source",
    "tests/lazyfs/test_image_mounts.py::test_a_missing_pack_is_eio_and_a_later_read_succeeds",
    "tests/lazyfs/test_old_kernels.py",
    "tests/e2e/test_mount_route.py",
)
"""What fits the limit under emulation."""
LIMIT_S = {"kvm": 600.0, "tcg": 1200.0}
"""For one kernel's guest, from its boot to its end."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a kernel is known to lack, and what doctor must say of it."""

    absent: tuple[str, ...]
    mounted_from: str
    route: str = "fuse"


EXPECTED = {
    "6.1": Expected(("fanotify_pre_content", "erofs_file_backed"), "loop devices"),
    "6.12": Expected(("fanotify_pre_content",), "files"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run every kernel that is asked for; status 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", help="of: " + " ".join(EXPECTED))
    wanted = parser.parse_args(argv).kernels or list(EXPECTED)
    if unknown := set(wanted) - EXPECTED.keys():
        parser.error(f"no such kernel: {' '.join(sorted(unknown))}")
    cache = CHECKOUT / ".cache/kernels"
    try:
        _say(system_packages.ensure(PACKAGES))
        return max([_run(series, cache) for series in wanted])
    except HotstartError as err:
        print(f"test-kernels: {err}", file=sys.stderr)
        return 1


def _say(text: str) -> None:
    print(f"test-kernels: {text}", flush=True)


def _run(series: str, cache: Path) -> int:
    began = time.monotonic()
    kernel = debian_kernels.ensure(series, cache)
    accel, why = machine.accelerator(kernel, cache)
    _say(f"{kernel.release} with {accel.upper()}: {why}")
    directory = cache / f"run-{series}"
    shutil.rmtree(directory, ignore_errors=True)
    expected = EXPECTED[series]
    tests = TESTS if accel == "kvm" else FEWER_TESTS
    _say(f"{'all' if tests is TESTS else 'a part'} of the tests: {' '.join(tests)}")
    outcome = machine.run_guest(
        kernel, accel, CHECKOUT, tests, expected.absent, directory, LIMIT_S[accel]
    )
    problems = judge(outcome, expected)
    for problem in problems:
        _say(f"{series}: {problem}")
    if problems:
        print((directory / "console.log").read_text(errors="replace")[-8000:], flush=True)
    _say(f"{series}: {'FAILED' if problems else 'passed'} in {time.monotonic() - began:.0f} s")
    return 1 if problems else 0


def judge(outcome: Outcome, expected: Expected) -> list[str]:
    """Print what ran, and return what is wrong with it."""
    report = outcome.results / "report.xml"
    if outcome.timed_out:
        return ["the guest did not end in time"]
    if outcome.status is None or not report.is_file():
        return ["the guest ended before its tests did"]
    # SAFETY: our own pytest wrote it.
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314
    problems = (
        [f"{len(failed)} tests failed"] if (failed := _with(cases, "failure", "error")) else []
    )
    skips = Counter(case.find("skipped").get("message") for case in _with(cases, "skipped"))  # type: ignore[union-attr]
    passed = len(cases) - len(failed) - skips.total()
    _say(f"{passed} passed, {len(failed)} failed, {skips.total()} skipped")
    for reason, count in skips.items():
        _say(f"skipped {count}: {reason}")
        if str(reason).removeprefix("Skipped: ").split(":")[0] not in expected.absent:
            problems.append(f"a skip that this kernel does not excuse: {reason}")
    if not passed:
        problems.append("no test passed")
    if outcome.status and not problems:
        problems.append(f"pytest ended with status {outcome.status}")
    return problems + _route_problems(outcome.results / "doctor.json", expected)


def _with(cases: Sequence[ElementTree.Element], *tags: str) -> list[ElementTree.Element]:
    return [case for case in cases if any(case.find(tag) is not None for tag in tags)]


def _route_problems(path: Path, expected: Expected) -> list[str]:
    told = json.loads(path.read_text())
    filler, source = told["filler"], told["mounted_from"]
    _say(f"doctor: filled by {filler['route']}: {filler['why']}")
    _say(f"doctor: mounted from {source['route']}: {source['why']}")
    if (filler["route"], source["route"]) != (expected.route, expected.mounted_from):
        return [f"doctor should say {expected.route} from {expected.mounted_from}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
