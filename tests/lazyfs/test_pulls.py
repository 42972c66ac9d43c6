"""What a successor goes on with: what somebody still has a use for."""

import pytest

from lazyfs.fill_service import SetUnknown
from lazyfs.plans import EverythingPlan
from lazyfs.pulls import NUMBERLESS, Pulls
from tests.lazyfs.node import Image, make_tree, running_node, wait_until

A, B = "a" * 64, "b" * 64


def test_a_device_is_given_up_with_the_last_job_that_fetches_it(tmp_path):
    pulls = Pulls(tmp_path)
    pulls.begin(1, [A, B])
    pulls.begin(2, [A])
    pulls.give_up(1)
    assert pulls.pending() == {2: {A}}
    pulls.give_up(1)
    assert pulls.pending() == {2: {A}}
    pulls.give_up(2)
    assert pulls.pending() == {}


def test_a_complete_device_is_no_jobs_any_more(tmp_path):
    pulls = Pulls(tmp_path)
    pulls.begin(1, [A])
    pulls.end(A)
    pulls.give_up(1)
    assert pulls.pending() == {}


def test_a_successor_finds_what_was_not_given_up(tmp_path):
    before = Pulls(tmp_path)
    before.begin(1, [A])
    before.begin(2, [B])
    before.give_up(2)
    assert Pulls(tmp_path).pending() == {1: {A}}


def test_markers_without_a_job_are_gone_on_with_and_end_with_their_device(tmp_path):
    """As a worker of before wrote them."""
    (tmp_path / "pulling").mkdir()
    (tmp_path / "pulling" / A).touch()
    pulls = Pulls(tmp_path)
    assert pulls.pending() == {NUMBERLESS: {A}}
    pulls.end(A)
    assert pulls.pending() == {}


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


def replace_worker(node):
    pid = node.worker_pid()
    node.kill_worker()
    wait_until(lambda: node.worker_pid() not in (None, pid))
    node.worker.ping()


@pytest.mark.kernel
def test_a_pull_that_is_given_up_after_its_worker_was_replaced_ends_all_the_same(tmp_path):
    """The successor has taken it up as the same job: there is no second one."""
    image = Image(make_tree(tmp_path / "tree", megabytes=32), tmp_path / "store")
    checks = []

    def give_up():
        checks.append(None)
        if len(checks) == 1:
            replace_worker(node)
        if len(checks) == 3:
            raise InterruptedError

    with (
        running_node(tmp_path / "node", "--slow-at", "fetched:1500") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
    ):
        job = node.mounts.prefetch(image.spec.manifest, EverythingPlan())
        with pytest.raises(InterruptedError):
            node.mounts.wait(job, give_up)
        assert list((node.root / "run" / "pulling").iterdir()) == []
        wait_until(lambda: node.worker.job(job)["done"])
        assert node.worker.job(job)["stopped"] == "unused"
        assert not node.mounts.is_local(image.spec)


@pytest.mark.kernel
def test_a_pull_whose_worker_died_before_it_answered_is_given_up_with_the_one_asked_anew(tmp_path):
    """A job that only the worker knew would go on for good."""
    image = Image(make_tree(tmp_path / "tree", megabytes=32), tmp_path / "store")
    with (
        running_node(tmp_path / "node", "--slow-at", "fetched:1500") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
    ):
        ask, answers = node.worker._exchange, []

        def lose_one(line, answer_s):
            answer = ask(line, answer_s)
            if b'"prefetch"' in line and not answers:
                answers.append(answer)
                replace_worker(node)
                raise ConnectionResetError
            return answer

        node.worker._exchange = lose_one
        job = node.mounts.prefetch(image.spec.manifest, EverythingPlan())
        node.worker.stop(job)
        assert answers
        assert list((node.root / "run" / "pulling").iterdir()) == []
        wait_until(lambda: node.worker.job(job)["done"])
        assert not node.mounts.is_local(image.spec)
