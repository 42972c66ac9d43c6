"""The poller against servers that answer late, wrongly or not at all; no root needed."""

import json
import socket
import threading

import pytest

from bench.first_answer import FirstAnswerPoller, NoAnswer
from bench.link_emulator import COUNTERS, LinkCount
from bench.question import Question

VECTOR = [0.5, -0.25]


def answer(body, status=b"200 OK"):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


RIGHT = answer(json.dumps({"vector": VECTOR}).encode())
WRONG = answer(json.dumps({"vector": [0.0, 0.0]}).encode())


class Script:
    """Answers one connection after another with the given bytes, the last one for ever."""

    def __init__(self, *answers, port=0):
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.requests = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self.requests.append(peer.recv(65536))
                reply = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                peer.sendall(reply)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def script():
    scripts = []

    def make(*answers, port=0):
        scripts.append(Script(*answers, port=port))
        return scripts[-1]

    yield make
    for each in scripts:
        each.close()


def poll(port, timeout_s=10.0, counters=None):
    question = Question("hello", port=port).expecting(VECTOR)
    with FirstAnswerPoller(question, timeout_s=timeout_s, counters=counters) as poller:
        poller.begin()
        return poller.result()


def test_the_first_correct_answer_ends_the_poll(script):
    server = script(RIGHT)
    found = poll(server.port)
    assert found.vector == tuple(VECTOR)
    assert (found.attempts, found.wrong_answers) == (1, 0)
    assert found.connected_s <= found.answered_s
    assert b'{"text": "hello"}' in server.requests[0]


def test_wrong_vectors_are_counted_and_never_taken(script):
    found = poll(script(WRONG, answer(b"not json"), RIGHT).port)
    assert (found.attempts, found.wrong_answers) == (3, 2)


def test_an_error_status_or_a_cut_answer_is_no_answer(script):
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"
    found = poll(script(answer(b"{}", b"503 Busy"), cut, b"", RIGHT).port)
    assert (found.attempts, found.wrong_answers) == (4, 0)


def test_a_server_that_comes_late_is_found(script):
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    question = Question("hello", port=port).expecting(VECTOR)
    with FirstAnswerPoller(question, timeout_s=20.0) as poller:
        poller.begin()
        script(RIGHT, port=port)
        assert poller.result().vector == tuple(VECTOR)


def test_only_wrong_answers_end_in_no_answer(script):
    with pytest.raises(NoAnswer, match="wrong answers") as caught:
        poll(script(WRONG).port, timeout_s=0.2)
    assert caught.value.wrong_answers > 0


def test_the_link_is_counted_at_the_instant_of_the_answer(script, tmp_path):
    counters = tmp_path / "counters"
    counters.write_bytes(COUNTERS.pack(1, 2, 3, 4))
    assert poll(script(RIGHT).port, counters=counters).link == LinkCount(1, 2, 3, 4)


def test_a_poller_that_is_called_off_leaves_no_process(script):
    with FirstAnswerPoller(Question("hello", port=1)) as poller:
        process = poller._process
    assert process.returncode is not None
