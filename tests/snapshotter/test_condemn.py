"""Whoever outlives SIGKILL is killed again until it is gone; nothing is closed before."""

import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from hotstart.kernel.pidfd import ProcessIdentity, remember, send_signal
from snapshotter import condemn, page_sessions
from snapshotter.condemn import Victims, failure_of
from snapshotter.last_holder import hand_over
from snapshotter.page_session import PageSession
from snapshotter.page_sessions import PageSessions, SessionInUse
from snapshotter.session_spec import SessionSpec
from tests.snapshotter.restored_tree import wait_for


@pytest.fixture
def sleeper(tmp_path):
    process = subprocess.Popen(["sleep", "600"])
    remember(ProcessIdentity.of(process.pid), tmp_path / "process")
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def immune(sleeper, monkeypatch):
    """The sleeper as a process in an uninterruptible wait; set the event to let it die."""
    mortal = threading.Event()
    asked = []

    def send(process, number):
        asked.append(process)
        return mortal.is_set() and send_signal(process, number)

    monkeypatch.setattr(condemn, "send_signal", send)
    monkeypatch.setattr(condemn, "_SAY_EACH_S", 0.0)
    monkeypatch.setattr(condemn, "_SELDOM_S", 0.001)
    return SimpleNamespace(process=sleeper, mortal=mortal, asked=asked)


class Holder:
    """A session's sets, and whether they are still there."""

    def __init__(self, names=()):
        self.names, self.dropped = frozenset(names), threading.Event()

    def drop_all(self):
        self.dropped.set()


def condemned_session(tmp_path, pool, holder):
    spec = SessionSpec(
        "s", str(tmp_path), str(tmp_path), (), process_file=str(tmp_path / "process")
    )
    condemn.record_failure(tmp_path, "memory is gone")
    return PageSession(spec, (), holder, pool, lambda _: None)


def test_a_process_that_outlives_sigkill_is_killed_until_it_is_gone(immune, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(condemn.log, "error", lambda event, **fields: said.append((event, fields)))
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(Victims((), str(tmp_path / "process")).kill_all)
        wait_for(lambda: len(said) > 2, "word of who stays")
        assert not killing.done()
        immune.mortal.set()
        assert killing.result(30)
    assert said[0] == ("condemned_processes_stay", {"pids": [immune.process.pid]})
    assert immune.process.wait(30) == -signal.SIGKILL


def test_whoever_has_the_number_of_a_victim_that_is_gone_is_left_alone(sleeper, tmp_path):
    (tmp_path / "number").write_text(str(sleeper.pid))
    now = ProcessIdentity.of(sleeper.pid)
    remember(ProcessIdentity(now.pid, now.start_ticks - 1), tmp_path / "earlier")
    (tmp_path / "other-boot").write_text(f"{now.pid} {now.start_ticks} another-boot")
    for name in ("number", "earlier", "other-boot"):
        assert Victims((), str(tmp_path / name)).kill_all()
    assert sleeper.poll() is None


def test_a_condemned_session_lets_go_of_nothing_before_its_processes_are_gone(
    immune, tmp_path, monkeypatch
):
    monkeypatch.setattr(page_sessions, "_CLOSE_S", 0.01)
    sessions, holder = PageSessions(None), Holder()
    with ThreadPoolExecutor(1) as pool:
        session = condemned_session(tmp_path, pool, holder)
        sessions._start(session)
        with pytest.raises(SessionInUse, match="outlive SIGKILL"):
            sessions.close("s", force=True)
        assert not holder.dropped.is_set()
        immune.mortal.set()
        session.join(30)
    assert holder.dropped.is_set()
    assert session.state == "failed"


def test_a_condemned_session_is_left_to_the_successor_when_the_worker_ends(immune, tmp_path):
    holder = Holder()
    with ThreadPoolExecutor(1) as pool:
        session = condemned_session(tmp_path, pool, holder)
        session.start()
        wait_for(lambda: immune.asked, "the first attempt")
        session.ask("stop")
        session.join(30)
    assert session.state == "stopped"
    assert not holder.dropped.is_set()


def test_without_a_next_keeper_nobody_goes_on_with_memory_that_is_not_served(sleeper, tmp_path):
    spec = SessionSpec(
        "s", str(tmp_path), str(tmp_path), (), process_file=str(tmp_path / "process")
    )
    session = SimpleNamespace(spec=spec, held_names=frozenset({"page/s/1"}))
    hand_over([session], tmp_path / "keeper.sock", patience_s=0.05)
    assert sleeper.wait(30) == -signal.SIGKILL
    assert "keeper died" in failure_of(tmp_path)


def test_a_process_whose_memory_is_all_there_is_left_alone(sleeper, tmp_path):
    spec = SessionSpec(
        "s", str(tmp_path), str(tmp_path), (), process_file=str(tmp_path / "process")
    )
    session = SimpleNamespace(spec=spec, held_names=frozenset())
    hand_over([session], tmp_path / "keeper.sock", patience_s=600)
    assert sleeper.poll() is None


def test_a_worker_whose_processes_are_gone_waits_for_no_keeper(tmp_path):
    spec = SessionSpec(
        "s", str(tmp_path), str(tmp_path), (), process_file=str(tmp_path / "process")
    )
    session = SimpleNamespace(spec=spec, held_names=frozenset({"page/s/1"}))
    hand_over([session], tmp_path / "keeper.sock", patience_s=600)
    assert failure_of(tmp_path) is None
