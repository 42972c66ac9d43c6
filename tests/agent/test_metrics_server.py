"""Metrics over HTTP: at one address, whoever hangs on, and whatever the node is up to."""

import socket
import socketserver
import threading
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics_server
from agent.metrics_address import MetricsAddress, MetricsAddressTaken, MetricsAddressUnusable
from agent.metrics_server import listening
from hotstart.core.errors import Unavailable
from tests.agent.observations import mount, observation

ANY = "127.0.0.1:0"


def get(url, timeout_s=20):
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310  # http
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


@contextmanager
def serving(observe=lambda: observation(mount()), text=ANY):
    with listening(text) as server:
        server.start(observe, "1")
        yield server.address


def names(text):
    return {family.name for family in text_string_to_metric_families(text)}


def test_a_scrape_tells_the_node_and_the_agents_process():
    with serving() as address:
        status, text = get(address.url)
        _, part = get(f"{address.url}?name[]=hotstart_mount_users")
        elsewhere = get(address.url.removesuffix("/metrics"))
    assert status == 200
    assert {"hotstart_mount_faults", "process_resident_memory_bytes"} <= names(text)
    assert names(part) == {"hotstart_mount_users"}
    assert elsewhere == (404, "metrics are at /metrics\n")


def test_each_scrape_looks_anew():
    looks = [observation(), observation(mount())]
    with serving(lambda: looks.pop(0)) as address:
        assert "hotstart_mounts 0.0" in get(address.url)[1]
        assert "hotstart_mounts 1.0" in get(address.url)[1]


def test_a_failed_scrape_is_an_answer_and_the_next_one_works(caplog):
    errors = [Unavailable("the agent is going down"), RuntimeError("broken")]

    def observe():
        if errors:
            raise errors.pop(0)
        return observation()

    with serving(observe) as address:
        assert get(address.url) == (503, "the agent is going down\n")
        assert get(address.url) == (500, "see agent.log\n")
        assert get(address.url)[0] == 200
    assert [record.message.split()[0] for record in caplog.records] == ["scrape_failed"]
    assert "RuntimeError" in caplog.text


def test_it_listens_at_the_given_address_alone():
    with serving() as address, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", address.port), timeout=5)


def test_an_address_in_use_is_refused_with_a_sentence_and_freed_at_the_end():
    with serving() as address:
        with pytest.raises(MetricsAddressTaken, match="another program listens there") as refused:
            address.listen()
        assert "choose another port" in refused.value.hint
        assert get(address.url)[0] == 200
    with serving(text=str(address)) as again:
        assert again == address


def test_a_server_that_never_answered_ends_too():
    with listening(ANY) as server:
        port = server.address.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_nobody_waits_for_a_client_that_says_nothing():
    with serving() as address, socket.create_connection(("127.0.0.1", address.port), timeout=20):
        assert get(address.url)[0] == 200


def test_a_silent_client_is_left(monkeypatch):
    assert metrics_server._Handler.timeout == metrics_server.CLIENT_S
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.05)
    with serving() as address, closing(connect(address)) as silent:
        assert silent.recv(1) == b""


def test_a_client_that_never_comes_to_the_point_is_left(monkeypatch):
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.3)
    with serving() as address, closing(connect(address)) as dripping:
        dripping.settimeout(0.02)
        assert any(is_left(dripping) for _ in range(500))
        assert get(address.url)[0] == 200


def is_left(client):
    """Say one byte more; tell whether the other side has hung up."""
    try:
        client.send(b"G")
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except (BrokenPipeError, ConnectionResetError):
        return True


def test_a_scrape_that_gets_no_thread_takes_no_room(monkeypatch):
    monkeypatch.setattr(metrics_server, "SCRAPES_AT_ONCE", 1)

    def fail(*_):
        raise RuntimeError("can't start new thread")

    with serving() as address:
        with monkeypatch.context() as short:
            short.setattr(socketserver.ThreadingMixIn, "process_request", fail)
            with closing(connect(address)) as client:
                assert client.recv(1) == b""
        assert get(address.url)[0] == 200


def connect(address):
    return socket.create_connection(("127.0.0.1", address.port), timeout=20)


def test_one_too_many_is_hung_up_on_and_served_later(monkeypatch):
    monkeypatch.setattr(metrics_server, "SCRAPES_AT_ONCE", 1)
    begun, go_on = threading.Event(), threading.Event()

    def observe():
        begun.set()
        assert go_on.wait(20)
        return observation()

    with serving(observe) as address:
        first = []
        scraping = threading.Thread(target=lambda: first.append(get(address.url)))
        scraping.start()
        assert begun.wait(20)
        with closing(connect(address)) as second:
            assert second.recv(1) == b""
        go_on.set()
        scraping.join()
        assert first[0][0] == 200


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9464", "127.0.0.1", 9464), ("localhost:0", "localhost", 0), ("[::1]:1", "::1", 1)],
)
def test_an_address_is_a_host_and_a_port(text, host, port):
    address = MetricsAddress.parse(text)
    assert address == MetricsAddress(host, port)
    assert str(address) == text
    assert address.url == f"http://{text}/metrics"


@pytest.mark.parametrize(
    "text",
    ["", "9464", ":9464", "[]:1", "host", "host:", "host:x", "host:-1", "host:65536", "host:٣",
     "::1:80", "[::1:80", "::1]:80", "host:000080"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(MetricsAddressUnusable) as refused:
        MetricsAddress.parse(text)
    assert "127.0.0.1:9464" in refused.value.hint


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 70])
def test_an_address_of_another_machine_or_none_is_refused(host):
    with pytest.raises(MetricsAddressUnusable, match="metrics cannot be served at"):
        MetricsAddress(host, 0).listen()


def test_a_name_that_nobody_knows_is_refused(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(MetricsAddressUnusable, match="no such host"):
        MetricsAddress("nowhere", 0).listen()


def test_port_0_is_served_wherever_the_host_is():
    served = MetricsAddress("127.0.0.1", 4000).url
    assert MetricsAddress("127.0.0.1", 4000).is_served_at(served)
    assert MetricsAddress("127.0.0.1", 0).is_served_at(served)
    assert not MetricsAddress("127.0.0.1", 4001).is_served_at(served)
    assert not MetricsAddress("127.0.0.2", 0).is_served_at(served)
    assert not MetricsAddress("127.0.0.1", 0).is_served_at("")
