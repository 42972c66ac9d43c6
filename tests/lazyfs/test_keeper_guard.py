"""The guard's copies are the last ones when a keeper dies: they must outlive what follows."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotstart.core.errors import HotstartError
from hotstart.kernel.keeper_client import HandleSet, KeeperClient, KeeperRefused
from lazyfs import keeper_guard
from lazyfs.keeper_guard import KeeperGuard, WorkerCommand
from tests.lazyfs.node import wait_until

pytestmark = [pytest.mark.kernel]


@pytest.fixture
def guard(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper_guard, "WATCH_INTERVAL_S", 0.05)
    guard = KeeperGuard(tmp_path)
    guard.start()
    try:
        yield guard
    finally:
        guard.shutdown()


def put_pipe(guard, name):
    """Return the reading end of a pipe whose writing end guard and keeper hold."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    guard.put(HandleSet(name, "test", {}, [write]))
    return read


def is_held(read):
    try:
        return os.read(read, 1) != b""
    except BlockingIOError:
        return True


def kill_keeper(guard):
    os.kill(guard.status()["pid"], 9)


def names_held(tmp_path):
    with KeeperClient(tmp_path / "keeper.sock") as client:
        return client.names()


def test_sets_come_back_though_the_next_keeper_could_not_be_started_at_once(
    tmp_path, guard, monkeypatch
):
    read, tries = put_pipe(guard, "kept"), []

    def fail():
        tries.append(None)
        raise OSError("no more processes")

    monkeypatch.setattr(guard, "_spawn", fail)
    kill_keeper(guard)
    wait_until(lambda: len(tries) > 2)
    monkeypatch.undo()
    wait_until(lambda: (tmp_path / "keeper.sock").exists() and guard_answers(guard))
    assert names_held(tmp_path) == ["kept"]
    assert is_held(read)
    os.close(read)


def guard_answers(guard):
    try:
        return guard.status()
    except (HotstartError, OSError):
        return None


def test_a_set_that_the_next_keeper_refuses_once_is_put_back_later(tmp_path, guard, monkeypatch):
    read, refused = put_pipe(guard, "kept"), []
    put = KeeperClient.put

    def refuse(client, held):
        refused.append(held.name)
        raise KeeperRefused("descriptors are short")

    monkeypatch.setattr(KeeperClient, "put", refuse)
    kill_keeper(guard)
    wait_until(lambda: len(refused) > 2)
    monkeypatch.setattr(KeeperClient, "put", put)
    wait_until(lambda: guard_answers(guard))
    assert names_held(tmp_path) == ["kept"]
    assert is_held(read)
    os.close(read)


def test_a_worker_gets_the_credentials_of_the_agent_that_comes_later(tmp_path):
    guards = []

    def begin(env):
        for guard in guards[-1:]:
            guard.close()
        command = WorkerCommand("fill", ["/bin/sleep", "1000"], env, kept="KEY_")
        guards.append(KeeperGuard(tmp_path, [command]))
        guards[-1].start()

    def pid_with(key):
        pid = guards[-1].status()["workers"]["fill"]["pid"]
        if pid is None:
            return None
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return None  # it has ended in between
        return pid if b"KEY_A=" + key in entries else None

    try:
        begin({"KEY_A": "old"})
        first = wait_until(lambda: pid_with(b"old"))
        begin({})
        assert pid_with(b"old") == first
        begin({"KEY_A": "new"})
        second = wait_until(lambda: pid_with(b"new"))
        assert second != first
        begin({})
        os.kill(second, 9)
        assert wait_until(lambda: pid_with(b"new") not in (None, second))
        kill_keeper(guards[-1])
        assert wait_until(lambda: pid_with(b"new"))
    finally:
        guards[-1].shutdown()


def test_a_glance_starts_no_keeper_and_restarts_are_counted(guard, monkeypatch):
    def fail():
        raise OSError("no more processes")

    assert guard.glance(20)["pid"] == guard.status()["pid"]
    monkeypatch.setattr(guard, "_spawn", fail)
    first = guard.status()["pid"]
    kill_keeper(guard)
    wait_until(lambda: guard.glance(20) is None)
    monkeypatch.undo()
    wait_until(lambda: guard_answers(guard))
    assert guard.glance(20)["pid"] != first
    assert guard.restarts == 1


def test_a_glance_waits_for_nobody_else(guard):
    with guard._lock:
        glance = ThreadPoolExecutor(1).submit(guard.glance, 20)
        assert glance.result(20) is not None


def test_a_glance_waits_for_a_hung_keeper_as_long_as_it_is_told_to(tmp_path, monkeypatch):
    """Not for as long as whoever needs the keeper does, and meanwhile nobody waits for it."""
    monkeypatch.setattr(keeper_guard, "WATCH_INTERVAL_S", 3600)
    guard = KeeperGuard(tmp_path)
    guard.start()
    pid = guard.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    patient = ThreadPoolExecutor(1).submit(guard.glance, 3600)
    try:
        assert ThreadPoolExecutor(1).submit(guard.glance, 0.05).result(8) is None
        assert guard._lock.acquire(timeout=8)
        guard._lock.release()
        assert not patient.done()
    finally:
        os.kill(pid, signal.SIGCONT)
        assert patient.result(20)["pid"] == pid
        guard.shutdown()


def test_a_glance_after_the_end_sees_nothing(tmp_path):
    guard = KeeperGuard(tmp_path)
    assert guard.glance(20) is None
