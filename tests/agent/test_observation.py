"""A look at a node: it waits for nobody, and sees what `hotstart mounts` shows."""

import os
import signal
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from agent.observation import observe
from agent.shown_mounts import shown_mounts, view_of
from agent.state import MountRow
from lazyfs.fill_client import FillClient
from tests.agent.observations import stats
from tests.lazyfs.node import Image, make_tree, running_node, wait_until

NAMES = {f"sha256:{'b' * 64}": "of-a-container:v1"}


def parts_of(node, reference):
    """What is asked of an agent's parts."""
    return SimpleNamespace(
        guard=node.guard,
        images=node.mounts,
        glancing=FillClient(node.run_dir / "fill.sock", away_s=0.0, answer_s=0.5),
        shown_mounts=lambda found: shown_mounts(
            found, [], {f"sha256:{one.manifest}": reference for one in found}
        ),
    )


@pytest.mark.kernel
def test_a_worker_that_does_not_answer_is_down_and_its_mounts_are_still_seen(scratch):
    image = Image(make_tree(scratch / "tree", megabytes=1), scratch / "store")
    with running_node(scratch / "node") as node:
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            (mounted.path / "large").read_bytes()
            parts = parts_of(node, "image:1")
            seen = observe(parts)
            (shown,) = seen.mounts
            assert (seen.fill_worker_up, seen.keeper_up, seen.filler) == (True, True, "fanotify")
            assert seen.workers["fill"] == 1
            assert shown.stats == node.mounts.stats()[0]
            assert sum(count for _, count in shown.stats.fault_waits) == shown.stats.misses > 0

            worker = node.worker_pid()
            os.kill(worker, signal.SIGSTOP)
            stopped = observe(parts)
            os.kill(worker, signal.SIGKILL)
            assert (stopped.fill_worker_up, stopped.keeper_up) == (False, True)
            assert stopped.mounts[0].stats.bytes_total == shown.stats.bytes_total
            wait_until(lambda: observe(parts).fill_worker_up)
            assert observe(parts).workers["fill"] == 2
        assert [one.stats.users for one in observe(parts).mounts] == []


def row(target, manifest, reference):
    return MountRow(target, reference, f"sha256:{manifest}", "fanotify", 0, {})


def test_targets_come_first_and_images_of_containers_have_their_names():
    named, nameless, idle = (stats(letter * 64) for letter in "bcd")
    object.__setattr__(idle, "users", 0)
    rows = [
        row("/a", "a" * 64, "app:v1"),
        row("/b", "a" * 64, "app:v2"),
        row("/gone", "e" * 64, ""),
    ]
    shown = shown_mounts([stats(), named, nameless, idle], rows, NAMES)
    assert [(one.stats.manifest[0], one.reference, one.target) for one in shown] == [
        ("a", "app:v1", "/a"),
        ("a", "app:v2", "/b"),
        ("b", "of-a-container:v1", ""),
        ("c", "", ""),
    ]


def test_a_view_has_every_number_of_the_mount():
    (shown,) = shown_mounts([stats()], [row("/a", "a" * 64, "app:v1")], {})
    view = asdict(view_of(shown, "fuse"))
    assert (view.pop("path"), view.pop("reference")) == ("/a", "app:v1")
    assert (view.pop("digest"), view.pop("filler")) == (f"sha256:{'a' * 64}", "fuse")
    counted = asdict(stats())
    assert view == {name: counted[name] for name in view}
    assert set(counted) - set(view) == {"manifest", "path", "fault_waits"}
