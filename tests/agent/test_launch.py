"""Finding an agent: who holds the lock is asked, who does not is not waited for."""

import fcntl
import os
from pathlib import Path

import pytest

from agent import launch
from agent.launch import NoAgent, NotRoot, await_end, connect, is_running
from hotstart.core.errors import Unavailable, Unsupported
from hotstart.core.run import run
from hotstart.kernel.pidfd import ProcessIdentity


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
        launch.ensure(tmp_path / "root", environment={})
    assert not (tmp_path / "root").exists()


def test_an_agent_imports_nothing_from_where_it_is_started(tmp_path):
    """Whoever may write to a directory must not decide what root runs."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current directory')")
    argv = [*launch.agent_command(tmp_path / "root", "auto"), "--help"]
    env = launch.agent_environment({**os.environ, "PYTHONPATH": os.pathsep})
    assert "hotstart-agent" in run(argv, env=env, cwd=tmp_path).text


def test_an_agent_finds_its_packages_before_others(tmp_path):
    env = launch.agent_environment({"PYTHONPATH": "/other::src", "A": "b"})
    own = str(Path(launch.__file__).parents[1])
    assert env == {"PYTHONPATH": os.pathsep.join([own, "/other"]), "A": "b"}


def test_an_agent_is_waited_for_until_its_process_is_gone(tmp_path):
    """It lets go of its lock a moment earlier."""
    with pytest.raises(Unavailable, match="did not end"):
        await_end(tmp_path, ProcessIdentity.of(os.getpid()), timeout_s=0.05)


@pytest.mark.parametrize(
    ("status", "kind"), [(launch.UNSUPPORTED_STATUS, Unsupported), (1, launch.AgentDidNotStart)]
)
def test_why_an_agent_could_not_start_is_told_in_its_kind(status, kind, tmp_path, monkeypatch):
    log = 'echo \'2026-01-01 E __main__ agent_failed reason="setsid is not installed"\' > "$0"'
    script = f"{log}; exit {status}"
    command = ["/bin/sh", "-c", script, str(tmp_path / "agent.log")]
    monkeypatch.setattr(launch, "agent_command", lambda root, filler: command)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(kind) as caught:
        launch.ensure(tmp_path, environment=dict(os.environ))
    assert "setsid is not installed" in str(caught.value)
    assert "agent_failed" not in str(caught.value)
