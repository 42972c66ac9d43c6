"""Finding an agent: who holds the lock is asked, who does not is not waited for."""

import fcntl
import os

import pytest

from agent import launch
from agent.launch import NoAgent, NotRoot, await_end, connect, is_running
from hotstart.core.errors import Unavailable


@pytest.fixture
def locked(tmp_path):
    with open(tmp_path / "agent.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def test_a_root_without_a_lock_has_no_agent(tmp_path):
    assert not is_running(tmp_path)
    with pytest.raises(NoAgent, match="hotstart agent start"):
        connect(tmp_path)


def test_a_lock_that_nobody_holds_is_no_agent(tmp_path):
    (tmp_path / "agent.lock").touch()
    assert not is_running(tmp_path)


def test_the_holder_of_the_lock_is_the_agent(locked):
    assert is_running(locked)
    with pytest.raises(Unavailable, match="did not end"):
        await_end(locked, timeout_s=0.05)


def test_an_agent_is_not_started_by_others_than_root(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotRoot, match="needs root"):
        launch.ensure(tmp_path / "root")
    assert not (tmp_path / "root").exists()
