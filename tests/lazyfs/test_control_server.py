"""The control socket goes on whatever a connection brings, and whatever the process is short of."""

import json
import socket
import threading

import pytest

from lazyfs import control_server
from lazyfs.control_server import ControlServer


@pytest.fixture
def path(tmp_path):
    server = ControlServer(tmp_path / "s", {"ping": lambda _: "pong"})
    server.start()
    yield tmp_path / "s"
    server.close()
    server._thread.join(20)
    assert not server._thread.is_alive()


def ask(path, line=b'{"op": "ping"}\n'):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(path))
        if line:
            client.sendall(line)
        answer = client.makefile("rb").readline()
        return json.loads(answer) if answer else None


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b'{"op": "absent"}\n', b"\xff\n"])
def test_a_bad_request_is_answered_and_ends_nothing(path, line):
    assert ask(path, line)["ok"] is False
    assert ask(path) == {"ok": True, "result": "pong"}


def test_a_connection_that_gets_no_thread_is_closed_and_the_next_is_served(path, monkeypatch):
    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(control_server.threading, "Thread", NoThread)
        assert ask(path, b"") is None
    assert ask(path) == {"ok": True, "result": "pong"}


def test_a_process_short_of_descriptors_answers_when_it_has_some_again(path, monkeypatch):
    refusals, accept = [OSError(24, "too many open files")] * 2, socket.socket.accept
    waited = []

    def accept_later(listener):
        if refusals:
            raise refusals.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    monkeypatch.setattr(control_server.time, "sleep", waited.append)
    for _ in range(2):  # the first may come in by the call that was waiting before
        assert ask(path) == {"ok": True, "result": "pong"}
    assert len(waited) == 2, "it does not spin meanwhile"
