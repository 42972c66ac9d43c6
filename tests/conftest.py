"""What every test gets: needs checked before it, leftovers looked for after it.

The session's files lie in one short directory on a disk file system (fanotify and EROFS refuse
tmpfs; socket paths are at most 107 bytes long) and are removed if all went well.
"""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import hypothesis
import pytest

from hotstart.core.errors import HotstartError
from hotstart.kernel.mounts import mounts_below
from tests.evidence import of_failure
from tests.leftovers import Watch, become_subreaper
from tests.requires import found, missing

pytest_plugins = ["tests.seaweedfs", "tests.small_file_system"]

# Examples have no deadline: on a busy machine any of them may take long.
hypothesis.settings.register_profile("hotstart", deadline=None)
hypothesis.settings.load_profile("hotstart")

HEAVY = ("kernel", "e2e", "s3")
"""Marks of tests that make real things, and that must not be skipped where they are required."""

_OWN_BASE = pytest.StashKey[Path]()
_LASTING = pytest.StashKey[set[int]]()
_PREFIX = "hs-"
_KEEP_S = 24 * 3600
_CHECKOUT = Path(__file__).parents[1]


def pytest_configure(config):
    become_subreaper()
    config.stash[_LASTING] = set()
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        _remove_forgotten(_disk_directory())
        config.stash[_OWN_BASE] = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_disk_directory()))
        # pytest empties the directory that it is given, and makes it anew.
        config.option.basetemp = str(config.stash[_OWN_BASE] / "t")


def pytest_unconfigure(config):
    base = config.stash.get(_OWN_BASE, None)
    if base is not None and not mounts_below(base) and not config.stash.get(_FAILED, False):
        shutil.rmtree(base, ignore_errors=True)


_FAILED = pytest.StashKey[bool]()


def pytest_sessionfinish(session, exitstatus):
    session.config.stash[_FAILED] = exitstatus not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)


def _remove_forgotten(place: Path) -> None:
    """Failed sessions keep their files, but not for ever."""
    for path in place.glob(f"{_PREFIX}*"):
        if time.time() - path.stat().st_mtime > _KEEP_S and not mounts_below(path):
            shutil.rmtree(path, ignore_errors=True)


def _disk_directory() -> Path:
    places = (Path("/var/tmp"), _CHECKOUT / ".cache")
    for place in places:
        place.mkdir(exist_ok=True)
        if found("cache_file_system", place).present:
            return place
    return places[0]


def _is_heavy(item) -> bool:
    return any(item.get_closest_marker(name) for name in HEAVY)


def pytest_runtest_setup(item):
    feature = missing(item, Path(item.config.option.basetemp).parent)
    if feature is not None:
        pytest.skip(f"{feature.name}: {feature.reason}")


def _is_expected(reason: str) -> bool:
    """Tell whether a skip is for an ability that this kernel is known to lack."""
    absent = os.environ.get("EXPECTED_ABSENT", "").split()
    return any(reason.removeprefix("Skipped: ").startswith(f"{name}: ") for name in absent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    required = os.environ.get("REQUIRE_KERNEL_TESTS") == "1"
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    forbidden = required and _is_heavy(item) and not _is_expected(reason)
    if report.skipped and forbidden and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_KERNEL_TESTS=1 allows no skip of this test. {reason}"
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and report.when == "call" and directory and _is_heavy(item):
        with contextlib.suppress(OSError, HotstartError):  # evidence must not hide the failure
            report.sections.extend(of_failure(directory))
    return report


@pytest.fixture(scope="session")
def lasting_processes(request):
    """Processes of session fixtures, which are no leftovers; fixtures add theirs."""
    return request.config.stash[_LASTING]


def _check(watch):
    left = watch.leftovers()
    if left:
        watch.clean()
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind_by_the_module(request):
    """Fail the last test of a module that leaves a process, a mount or a loop device.

    Only when its module ends is it certain that something belongs to no fixture any more.
    """
    heavy = [
        item for item in request.session.items if item.path == request.path and _is_heavy(item)
    ]
    if not heavy:
        yield
        return
    watch = Watch(Path(request.config.option.basetemp).parent, request.config.stash[_LASTING])
    yield
    _check(watch)


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """Fail a test that leaves a mount or a loop device below its own directory."""
    if not _is_heavy(request.node) or "tmp_path" not in request.fixturenames:
        yield
        return
    watch = Watch(request.getfixturevalue("tmp_path"), request.config.stash[_LASTING])
    watch.everything = False
    yield
    _check(watch)


@pytest.fixture
def scratch(tmp_path):
    """An empty directory on ext4, xfs or btrfs, removed with everything in it."""
    if not found("cache_file_system", tmp_path.parent.parent).present:
        pytest.skip(found("cache_file_system", tmp_path.parent.parent).reason)
    yield tmp_path
    if not mounts_below(tmp_path):
        shutil.rmtree(tmp_path, ignore_errors=True)
