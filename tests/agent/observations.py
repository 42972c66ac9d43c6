"""Observations of a node that was never there."""

import math
from dataclasses import fields, replace
from pathlib import Path

from agent.observation import Observation
from agent.shown_mounts import ShownMount
from lazyfs.mount_stats import MountStats

WAITS = ((1.0, 3), (2.5, 0), (10_000.0, 2), (math.inf, 1))


def stats(manifest="a" * 64, first=1000):
    """A mount whose numbers all differ."""
    own = {"manifest": manifest, "path": Path("/m"), "fault_waits": WAITS, "stalled_ms": 25_000.5}
    rest = [field.name for field in fields(MountStats) if field.name not in own]
    return MountStats(**own, **{name: first + n for n, name in enumerate(rest)})


def mount(reference="app:v1", target="/mnt", **of):
    return ShownMount(stats(**of), reference, target)


def observation(*mounts, **changes):
    seen = Observation("fanotify", mounts, True, True, 2, {"fill": 4, "page": 1})
    return replace(seen, **changes)
