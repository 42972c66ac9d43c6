"""The primer moves one process of its own, only while it is needed, and leaves nothing."""

import os

import pytest

from hotstart.kernel.cgroup import Group
from runtime.cgroup_primer import CgroupPrimer
from tests.snapshotter.restored_tree import wait_for

pytestmark = pytest.mark.kernel


def test_it_moves_its_process_while_it_is_awake_and_leaves_nothing():
    parent = Group.named(f"/hotstart-primer-{os.getpid()}")
    primer = CgroupPrimer(parent)
    first, second = parent.child("primer-a"), parent.child("primer-b")
    with primer.awake():
        wait_for(first.processes, "the first group's turn", 10)
        wait_for(second.processes, "the second group's turn", 10)
    primer.close()
    assert not any(
        directory.exists() for directory in (*first.directories(), *second.directories())
    )
    parent.remove()


def test_it_does_nothing_before_it_is_needed():
    parent = Group.named(f"/hotstart-primer-{os.getpid()}")
    primer = CgroupPrimer(parent)
    primer.close()
    primer.close()
    assert not any(directory.exists() for directory in parent.directories())
