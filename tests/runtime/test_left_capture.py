"""A container that was frozen for a capture goes on when that capture's agent has died."""

import pytest

from hotstart.core.run import PIPE, spawn
from hotstart.kernel.cgroup import Group
from runtime.left_capture import end_trials, undo_capture
from runtime.links import root_id
from runtime.runc import Programs
from tests.waiting import wait_until

pytestmark = pytest.mark.kernel


def test_a_frozen_container_goes_on(start, caplog):
    with start("sleep 60") as container:
        undo_capture(container.directory, container.group)
        assert "container_thawed" not in caplog.text
        container.runc.pause()
        assert container.group.frozen()
        undo_capture(container.directory, container.group)
        assert container.runc.state().status == "running"
        assert not container.group.frozen()
    assert "container_thawed" in caplog.text


@pytest.mark.parametrize("verb", ["pause", "checkpoint"])
def test_it_goes_on_only_when_what_freezes_it_has_ended(start, verb):
    with start("sleep 60") as container:
        container.runc.pause()
        words = ["sh", "-c", "read line", "--root", str(container.directory.runc_root), verb]
        with spawn(words, stdin=PIPE) as freezing:
            undo_capture(container.directory, container.group)
            assert container.group.frozen()
            freezing.stdin.close()
        wait_until(lambda: not container.group.frozen())


def test_containers_on_trial_are_ended(start, container_root):
    trials, parent = (
        container_root / "containers",
        Group.named(f"/hotstart-{root_id(container_root)}"),
    )
    with start("sleep 60", name="rehearsal-1") as rehearsal, start("sleep 60", name="web") as web:
        end_trials(trials, Programs.find(), parent)
        assert not rehearsal.directory.path.exists()
        assert rehearsal.group.processes() == set()
        assert web.runc.state().status == "running"
