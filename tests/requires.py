"""What a test needs of the host: ``@requires("fanotify_pre_content", "criu")``.

A test whose need is not met is skipped with the probe's own reason; the names are the keys of
``hotstart.kernel.features.PROBES``. With REQUIRE_KERNEL_TESTS=1 conftest turns such a skip into a
failure.
"""

import functools
from pathlib import Path

import pytest

from hotstart.kernel.features import PROBES, Feature, probe_one

CRIU = Path("/opt/hotstart/criu/bin/criu")


def requires(*names):
    """Return the mark that skips a test on hosts without these abilities."""
    unknown = set(names) - PROBES.keys()
    if unknown:
        raise ValueError(f"no such probe: {', '.join(sorted(unknown))}")
    return pytest.mark.requires(*names)


@functools.cache
def found(name: str, directory: Path) -> Feature:
    """Probe once in a session."""
    return probe_one(name, directory, CRIU)


def missing(item, directory: Path) -> Feature | None:
    """Return the first ability that ``item`` needs and this host lacks."""
    names = ["root"] if item.get_closest_marker("kernel") or item.get_closest_marker("e2e") else []
    for mark in item.iter_markers("requires"):
        names.extend(mark.args)
    features = (found(name, directory) for name in dict.fromkeys(names))
    return next((feature for feature in features if not feature.present), None)
