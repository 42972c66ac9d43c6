"""The client never takes one answer for another, nor a part of an answer for all of it."""

import contextlib
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from hotstart.kernel.keeper import PACKET_BYTES, VERSION
from hotstart.kernel.keeper_client import KeeperClient, KeeperGone

pytestmark = [pytest.mark.kernel]


@pytest.fixture
def keeper(tmp_path):
    """A listener in a keeper's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "keeper.sock"))
        listener.listen()
        yield listener


def connect(listener, **options):
    """Return a client and the keeper's end of its connection."""
    ends = []

    def serve():
        end, _ = listener.accept()
        end.recv(PACKET_BYTES)
        end.send(json.dumps({"ok": True, "version": VERSION}).encode())
        ends.append(end)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = KeeperClient(Path(listener.getsockname()), **options)
    thread.join()
    return client, ends[0]


def answer(end, name, fds=()):
    packet = json.dumps({"ok": True, "kind": "fill", "meta": {"name": name}}).encode()
    socket.send_fds(end, [packet], fds)


def test_an_answer_that_comes_too_late_is_not_that_of_the_next_request(keeper):
    client, end = connect(keeper, timeout_s=0.05)
    with client, end:
        with pytest.raises(KeeperGone):
            client.get("first")
        with contextlib.suppress(BrokenPipeError):
            answer(end, "first")
        with pytest.raises(KeeperGone):
            client.get("second")


def test_an_answer_without_all_its_descriptors_is_refused(keeper, monkeypatch):
    client, end = connect(keeper)
    received = os.open("/dev/null", os.O_RDONLY)
    cut = (b'{"ok": true, "kind": "fill", "meta": {}}', [received], socket.MSG_CTRUNC, None)
    with client, end:
        monkeypatch.setattr(socket, "recv_fds", lambda *_: cut)
        with pytest.raises(KeeperGone, match="in part"):
            client.get("cut")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(received)
