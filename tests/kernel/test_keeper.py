"""The keeper outlives bad requests, its clients and its workers, and ends no descriptor early."""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time

import pytest

from hotstart.core.run import DEVNULL, spawn
from hotstart.kernel import keeper
from hotstart.kernel.keeper_client import HandleSet, KeeperClient, KeeperGone, KeeperRefused
from tests.waiting import wait_until

pytestmark = [pytest.mark.kernel]
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def connect(run_dir):
    def attempt():
        with contextlib.suppress(KeeperGone):
            return KeeperClient(run_dir / "keeper.sock")

    return wait_until(attempt)


@contextlib.contextmanager
def running(run_dir, config=None):
    argv = [sys.executable, "-S", "-E", keeper.__file__, str(run_dir), json.dumps(config or {})]
    process = spawn(argv, stdout=DEVNULL, stderr=DEVNULL, new_session=True)
    try:
        with connect(run_dir) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path


@pytest.fixture
def client(run_dir):
    with running(run_dir) as (client, _):
        yield client


def put_pipe(client, name, kind="fill", meta=None):
    """Give the keeper the write end of a pipe; return the read end."""
    read, write = os.pipe()
    client.put(HandleSet(name, kind, meta or {}, [write]))
    os.close(write)
    os.set_blocking(read, False)
    return read


def is_open_elsewhere(read):
    """Tell whether anybody still holds the write end."""
    try:
        return os.read(read, 1) != b""
    except BlockingIOError:
        return True


def test_a_set_comes_back_as_it_was_put(client):
    read = put_pipe(client, "a", meta={"size": 5})
    held = client.get("a")
    os.write(held.fds[0], b"x")
    assert (held.kind, held.meta, os.read(read, 1)) == ("fill", {"size": 5}, b"x")
    held.close()
    os.close(read)


def test_descriptors_stay_open_when_their_giver_has_gone(run_dir, client):
    with connect(run_dir) as giver:
        read = put_pipe(giver, "a")
    assert is_open_elsewhere(read)
    client.drop("a")
    assert not is_open_elsewhere(read)
    os.close(read)


def test_a_replaced_set_is_closed(client):
    first, second = put_pipe(client, "a"), put_pipe(client, "a")
    assert (is_open_elsewhere(first), is_open_elsewhere(second)) == (False, True)
    os.close(first)
    os.close(second)


def test_names_are_listed_by_kind(client):
    for name, kind in (("a", "fill"), ("b", "page"), ("c", "fill")):
        os.close(put_pipe(client, name, kind))
    assert (client.names("fill"), client.names("page")) == (["a", "c"], ["b"])
    assert client.names() == ["a", "b", "c"]


def test_more_names_than_a_packet_holds_are_listed(client):
    names = sorted(f"device/{number:064}" for number in range(1500))
    for name in reversed(names):
        client.put(HandleSet(name, "fill", {}, []))
    client.put(HandleSet("other", "page", {}, []))
    assert client.names("fill") == names
    assert client.names() == [*names, "other"]


def test_names_of_the_longest_kind_fit(client):
    names = sorted(f"{number:03}" + "\0" * 253 for number in range(keeper.NAMES_AN_ANSWER + 1))
    for name in names:
        client.put(HandleSet(name, "fill", {}, []))
    assert client.names() == names


def test_a_keeper_of_an_earlier_agent_lists_everything_at_once(client, monkeypatch):
    answers = [({"ok": True, "names": ["b", "a"]}, [])]
    monkeypatch.setattr(client, "_ask", lambda _: answers.pop())
    assert client.names() == ["b", "a"]


BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"op": 5}',
    b'{"op": "explode"}',
    b'{"op": "put"}',
    b'{"op": "put", "name": "", "kind": "fill"}',
    b'{"op": "put", "name": "n", "kind": "fill", "meta": 3}',
    b'{"op": "put", "name": "\\u00e9", "kind": "fill"}',
    b'{"op": "list", "after": 3}',
    b'{"op": "get", "name": "absent"}',
    b'{"op": "restart", "kind": "absent"}',
    b'{"op": "supervise", "kind": "x", "argv": []}',
    b'{"op": "supervise", "kind": "x", "argv": ["/"], "env": {"A": 1}}',
    b'{"op": "list", "version": 2}',
    b'{"op": "status", "name": "' + b"x" * 70_000 + b'"}',
    b"[" * 60_000,
]


@pytest.mark.parametrize("packet", BAD, ids=range(len(BAD)))
def test_a_bad_request_is_answered_and_ends_nothing(run_dir, client, packet):
    kept = put_pipe(client, "kept")
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(str(run_dir / "keeper.sock"))
        raw.settimeout(10)
        socket.send_fds(raw, [packet], [write])
        os.close(write)
        answer = json.loads(raw.recv(1 << 17))
    assert answer["ok"] is False
    assert answer["error"]
    assert not is_open_elsewhere(read), "the descriptor of a refused request is closed"
    assert is_open_elsewhere(kept)
    os.close(kept)
    os.close(read)


def test_a_client_that_reads_no_answers_stops_nobody(run_dir, client):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.connect(str(run_dir / "keeper.sock"))
        deaf.setblocking(False)
        with contextlib.suppress(OSError):
            for _ in range(5000):
                deaf.send(b'{"op": "status"}')
        assert client.status()["version"] == keeper.VERSION


def test_a_run_directory_may_have_a_long_name(tmp_path):
    run_dir = tmp_path / ("long" * 30)
    run_dir.mkdir()
    with running(run_dir) as (client, process):
        assert client.status()["pid"] == process.pid


def test_two_keepers_never_share_a_run_directory(run_dir, client):
    argv = [sys.executable, "-S", "-E", keeper.__file__, str(run_dir), "{}"]
    assert spawn(argv, stderr=DEVNULL).wait(timeout=10) == 3
    assert client.status()["version"] == keeper.VERSION


def worker_pid(client, kind="fill"):
    return client.status()["workers"][kind]["pid"]


def test_a_worker_is_restarted_whenever_it_dies(client):
    client.supervise("fill", SLEEPER, {})
    for starts in (1, 2, 3):
        pid = wait_until(lambda: worker_pid(client))
        assert client.status()["workers"]["fill"]["starts"] == starts
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: worker_pid(client) not in (None, pid))


def test_a_worker_that_ends_before_it_serves_is_started_again_but_not_in_a_rush(client):
    client.supervise("fill", [sys.executable, "-c", "raise SystemExit(1)"], {})
    begun = time.monotonic()
    wait_until(lambda: client.status()["workers"]["fill"]["starts"] >= 4)
    assert time.monotonic() - begun > 0.5, "0.1, 0.2 and 0.4 s lie between four starts"


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["/does/not/exist"], {}),
        (["/bin/true\0"], {}),
        (["/bin/\ud800"], {}),
        (["/bin/true"], {"A=B": "C"}),
    ],
    ids=["missing", "zero-byte", "no-text", "variable"],
)
def test_a_worker_that_cannot_be_started_does_not_end_the_keeper(client, argv, env):
    client.supervise("fill", argv, env)
    wait_until(lambda: client.status()["workers"]["fill"]["starts"] > 1, "another try")
    assert worker_pid(client) is None
    client.supervise("fill", SLEEPER, {})
    assert wait_until(lambda: worker_pid(client))


def test_workers_die_with_the_keeper(run_dir):
    with running(run_dir) as (client, process):
        client.supervise("fill", SLEEPER, {})
        pid = wait_until(lambda: worker_pid(client))
        pidfd = os.pidfd_open(pid)
        process.kill()
        process.wait()
    ready, _, _ = select.select([pidfd], [], [], 10)
    os.close(pidfd)
    assert ready, "a worker without a keeper would block every reader"


def test_restart_replaces_a_worker(client):
    client.supervise("fill", SLEEPER, {})
    pid = wait_until(lambda: worker_pid(client))
    client.restart("fill")
    assert wait_until(lambda: worker_pid(client) not in (None, pid))


def test_shutdown_ends_workers_and_keeper(run_dir):
    config = {"workers": {"fill": {"argv": SLEEPER}}}
    with running(run_dir, config) as (client, process):
        pid = wait_until(lambda: worker_pid(client))
        client.shutdown()
        assert process.wait(timeout=10) == 0
        assert not os.path.exists(f"/proc/{pid}")
        assert not (run_dir / "keeper.sock").exists()
        with pytest.raises(KeeperGone):
            client.names()


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""


def test_shutdown_kills_a_worker_that_ignores_sigterm(run_dir):
    ignores = run_dir / "ignores"
    with running(run_dir) as (client, process):
        client.supervise("fill", [sys.executable, "-c", STUBBORN, str(ignores)], {})
        wait_until(ignores.exists)
        client.shutdown()
        with pytest.raises(KeeperRefused):
            client.supervise("page", SLEEPER, {})
        assert process.wait(timeout=keeper.STOP_S + 10) == 0


def test_signals_of_the_starters_terminal_do_not_reach_it(run_dir):
    with running(run_dir) as (client, process):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(process.pid, number)
        assert client.status()["pid"] == process.pid


@pytest.fixture
def inside(run_dir):
    """A keeper's loop in this process, which does not run."""
    loop = keeper.Keeper(str(run_dir))
    yield loop
    loop.listener.close()
    loop.selector.close()


def no_more(*_):
    raise OSError(24, "too many open files")


@pytest.mark.parametrize("what", ["pidfd", "registration"])
def test_a_worker_that_cannot_be_watched_does_not_run(inside, monkeypatch, what):
    started, pidfd_open = [], os.pidfd_open

    def opened(pid):
        started.append(pid)
        return no_more() if what == "pidfd" else pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", opened)
    if what == "registration":
        monkeypatch.setattr(inside.selector, "register", no_more)
    before = pidfds()
    worker = keeper.Worker(SLEEPER, {})
    inside.start(worker)
    assert (worker.process, worker.failures) == (None, 1), "it is started again, a little later"
    assert not os.path.exists(f"/proc/{started[0]}")
    assert pidfds() == before


def pidfds():
    """Count them; what else this process has open, other tests may be about to close."""
    return sum("[pidfd]" in _target(name) for name in os.listdir("/proc/self/fd"))


def _target(name):
    with contextlib.suppress(FileNotFoundError):  # the directory's own
        return os.readlink(f"/proc/self/fd/{name}")
    return ""


def test_a_client_that_cannot_be_listened_to_is_closed_and_ends_nothing(
    run_dir, inside, monkeypatch
):
    monkeypatch.setattr(inside.selector, "register", no_more)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(run_dir / "keeper.sock"))
        client.settimeout(10)
        inside.accept(inside.listener)
        assert client.recv(1) == b""
    assert inside.clients == 0
