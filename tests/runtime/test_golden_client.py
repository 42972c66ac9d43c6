"""Golden requests reach a server inside a network namespace, and only there."""

import http.server
import threading

import pytest

from hotstart.core.run import run
from hotstart.kernel.namespaces import call_in_network, create_network, remove_network
from runtime.golden_client import GoldenUnanswered, answers, send
from snapshotter.golden import Answer, GoldenRequest

pytestmark = pytest.mark.kernel


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what was asked."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(self.path.encode() + b" " + self.headers["X-Word"].encode() + b" " + body)

    def log_message(self, *_):
        """Stay quiet."""


def no_exec(argv, timeout_s):
    raise AssertionError(argv, timeout_s)


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net"
    create_network(path)
    call_in_network(path, lambda: run(["ip", "link", "set", "lo", "up"]))
    yield path
    remove_network(path)


@pytest.fixture
def port(network):
    server = call_in_network(network, lambda: http.server.HTTPServer(("127.0.0.1", 0), Echo))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_answered_by_the_server_in_the_namespace(network, port):
    request = GoldenRequest("POST", "/say?x=1", port, {"X-Word": "hi"}, b"body")
    assert send(request, network, no_exec) == Answer(201, b"/say?x=1 hi body")


def test_several_requests_are_sent_in_order(network, port):
    requests = [GoldenRequest("POST", f"/{i}", port, {"X-Word": "w"}, b"") for i in range(3)]
    got = answers(requests, lambda request: send(request, network, no_exec))
    assert [answer.body[:2] for answer in got] == [b"/0", b"/1", b"/2"]


def test_nobody_listening_is_told_with_the_request_named(network):
    with pytest.raises(GoldenUnanswered, match=r"POST :9/embed: nobody listens on port 9 in"):
        send(GoldenRequest("POST", "/embed", 9), network, no_exec)


def test_an_exec_request_goes_to_the_container():
    def run_inside(argv, timeout_s):
        return len(argv), f"{timeout_s:g}".encode()

    request = GoldenRequest(exec=("redis-cli", "ping"))
    assert send(request, None, run_inside, timeout_s=3) == Answer(2, b"3")
