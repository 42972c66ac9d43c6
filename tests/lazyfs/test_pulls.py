"""What a successor goes on with: what somebody still has a use for."""

import pytest

from lazyfs.fill_service import SetUnknown
from lazyfs.plans import EverythingPlan
from lazyfs.pulls import Pulls
from tests.lazyfs.node import Image, make_tree, running_node, wait_until

A, B = "a" * 64, "b" * 64


def test_a_device_is_given_up_with_the_last_job_that_fetches_it(tmp_path):
    pulls = Pulls(tmp_path)
    pulls.begin(1, [A, B])
    pulls.begin(2, [A])
    pulls.give_up(1)
    assert pulls.pending() == {A}
    pulls.give_up(1)
    assert pulls.pending() == {A}
    pulls.give_up(2)
    assert pulls.pending() == set()


def test_a_complete_device_is_no_jobs_any_more(tmp_path):
    pulls = Pulls(tmp_path)
    pulls.begin(1, [A])
    pulls.end(A)
    pulls.give_up(1)
    assert pulls.pending() == set()


def test_a_successor_finds_what_was_not_given_up(tmp_path):
    before = Pulls(tmp_path)
    before.begin(1, [A])
    before.begin(2, [B])
    before.give_up(2)
    assert Pulls(tmp_path).pending() == {A}


@pytest.mark.kernel
def test_a_pull_that_is_given_up_ends_and_no_successor_goes_on_with_it(tmp_path):
    image = Image(make_tree(tmp_path / "tree", megabytes=32), tmp_path / "store")

    def give_up():
        raise InterruptedError

    with (
        running_node(tmp_path / "node", "--slow-at", "fetched:1500") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
    ):
        job = node.mounts.prefetch(image.spec.manifest, EverythingPlan())
        with pytest.raises(InterruptedError):
            node.mounts.wait(job, give_up)
        wait_until(lambda: node.worker.job(job)["done"])
        assert node.worker.job(job)["stopped"] == "unused"
        assert not node.mounts.is_local(image.spec)
        pid = node.worker_pid()
        node.kill_worker()
        wait_until(lambda: node.worker_pid() not in (None, pid))
        node.worker.ping()
        with pytest.raises(SetUnknown):
            node.worker.job(job)
        assert list((node.root / "run" / "pulling").iterdir()) == []
