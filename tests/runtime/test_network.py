"""Networks that packets really cross: publishing, leaving, refusing, side by side."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from hotstart.core.run import run
from hotstart.kernel.namespaces import call_in_network
from runtime import network as network_module
from runtime.container_spec import PortMapping
from runtime.links import Network, root_id
from runtime.network import NetworkPool
from runtime.network_registry import PortInUse
from runtime.resolver import Resolver
from tests.snapshotter.restored_tree import wait_for

pytestmark = pytest.mark.kernel


def _free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _answering(network, port, word):
    """Answer every connection to a port inside the network with one word."""
    listener = call_in_network(network.path, lambda: socket.create_server(("0.0.0.0", port)))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(word)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _ask(address, port):
    with socket.create_connection((address, port), timeout=5) as peer:
        return peer.recv(100)


def _refused(address, port):
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.fixture
def network(pool):
    network = pool.acquire()
    yield network
    pool.release(network)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_published_port_answers_on_this_machine(pool, name):
    port = _free_port()
    network = pool.publish(pool.acquire(), [PortMapping(port, 80)])
    with _answering(network, 80, b"inside"):
        assert _ask(name, port) == b"inside"
        pool.release(network)
        assert _refused("127.0.0.1", port)


def test_published_port_answers_on_every_address_if_asked(pool):
    port = _free_port("0.0.0.0")
    network = pool.publish(pool.acquire(), [PortMapping(port, 80, "0.0.0.0")])
    other = pool.acquire()
    with _answering(network, 80, b"everywhere"):
        assert _ask("127.0.0.1", port) == b"everywhere"
        assert _ask(other.gateway, port) == b"everywhere"
        assert call_in_network(other.path, lambda: _ask(other.gateway, port)) == b"everywhere"
        # A container that asks for its own published port gets itself.
        assert call_in_network(network.path, lambda: _ask(network.gateway, port)) == b"everywhere"
    pool.release(network)
    pool.release(other)


def test_port_of_a_listening_program_is_refused(pool):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        network = pool.acquire()
        with pytest.raises(PortInUse, match=f"port {port}"):
            pool.publish(network, [PortMapping(port, 80)])
        pool.release(network)
    # The failed try left nothing: the port is free now.
    network = pool.publish(pool.acquire(), [PortMapping(port, 80)])
    pool.release(network)


def test_all_ports_or_none_are_published(pool):
    free = _free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        network = pool.acquire()
        with pytest.raises(PortInUse):
            pool.publish(network, [PortMapping(free, 80), PortMapping(taken, 81)])
        pool.publish(network, [PortMapping(free, 80)])
        pool.release(network.with_ports([PortMapping(free, 80)]))


def test_nobody_else_can_take_a_published_port(pool):
    port = _free_port()
    network = pool.publish(pool.acquire(), [PortMapping(port, 80)])
    try:
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
    finally:
        pool.release(network)


def test_container_reaches_out_and_is_masqueraded(network):
    with socket.create_server((network.gateway, 0)) as listener:
        address = listener.getsockname()
        peer = call_in_network(network.path, lambda: socket.create_connection(address, timeout=5))
        with peer, listener.accept()[0] as accepted:
            assert accepted.getpeername()[0] == network.address


def test_container_does_not_reach_the_hosts_loopback(network):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def attack():
            """Send to the host's 127.0.0.1 through the link, as a container with a raw socket."""
            run(["ip", "address", "del", "127.0.0.1/8", "dev", "lo"])
            run(["ip", "route", "add", "127.0.0.0/8", "via", network.gateway, "dev", "eth0"])
            Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
            return _refused("127.0.0.1", port)

        assert call_in_network(network.path, attack)


def test_containers_reach_each_other(pool):
    first, second = pool.acquire(), pool.acquire()
    with _answering(first, 9000, b"neighbour"):
        assert call_in_network(second.path, lambda: _ask(first.address, 9000)) == b"neighbour"
    pool.release(first)
    pool.release(second)


def test_name_server_on_the_hosts_loopback_is_asked_through_the_gateway(tmp_path, monkeypatch):
    resolver = Resolver("nameserver gateway\n", "127.0.0.77")
    monkeypatch.setattr("runtime.network.host_resolver", lambda gateway: resolver)
    pool = NetworkPool(tmp_path, spare=0)
    network = pool.acquire()
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            call_in_network(
                network.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            ) as client,
        ):
            server.bind(("127.0.0.77", 53))
            server.settimeout(5)
            client.settimeout(5)
            client.sendto(b"question", (network.gateway, 53))
            question, peer = server.recvfrom(100)
            server.sendto(b"answer to " + question, peer)
            assert client.recvfrom(100) == (b"answer to question", (network.gateway, 53))
    finally:
        pool.release(network)
        pool.close(remove=True)


def test_isolated_network_has_a_loopback_and_nothing_else(pool):
    network = pool.isolated()
    with _answering(network, 80, b"alone"):
        assert call_in_network(network.path, lambda: _ask("127.0.0.1", 80)) == b"alone"
    links = call_in_network(network.path, lambda: run(["ip", "-brief", "link"]).text)
    assert [line.split()[0] for line in links.splitlines()] == ["lo"]
    pool.release(network)


def test_roots_side_by_side_never_share_an_address(pool, tmp_path):
    (tmp_path / "other").mkdir()
    other = NetworkPool(tmp_path / "other", spare=0)
    try:
        port = _free_port()
        mine, theirs = pool.publish(pool.acquire(), [PortMapping(port, 80)]), other.acquire()
        assert mine.address != theirs.address
        with pytest.raises(PortInUse, match="agent"):
            other.publish(theirs, [PortMapping(port, 80)])
        other.release(theirs)
        pool.release(mine)
    finally:
        other.close(remove=True)


def test_networks_in_use_outlive_the_agent(tmp_path):
    first = NetworkPool(tmp_path, spare=1)
    port = _free_port()
    kept = first.publish(first.acquire(), [PortMapping(port, 80)])
    forgotten = first.acquire()
    first.close()
    with _answering(kept, 80, b"still"):
        assert _ask("127.0.0.1", port) == b"still"
        second = NetworkPool(tmp_path, spare=0, in_use=[Network.from_dict(kept.to_dict())])
        try:
            assert _ask("127.0.0.1", port) == b"still"
            assert not forgotten.path.exists()
            with pytest.raises(PortInUse):
                second.publish(second.acquire(), [PortMapping(port, 80)])
            second.release(kept)
            assert _refused("127.0.0.1", port)
        finally:
            second.close(remove=True)


def test_a_held_port_is_taken_though_nothing_answers_there_yet(pool):
    port = _free_port()
    network = pool.hold(pool.acquire(), [PortMapping(port, 80)])
    with _answering(network, 80, b"now"):
        assert _refused("127.0.0.1", port)
        other = pool.acquire()
        with pytest.raises(PortInUse):
            pool.hold(other, [PortMapping(port, 80)])
        pool.forward(network)
        assert _ask("127.0.0.1", port) == b"now"
        pool.release(network)
        assert _refused("127.0.0.1", port)
        again = pool.hold(other, [PortMapping(port, 80)])
        pool.release(again)  # held only: there is nothing to take back from the table


def _flush(pool):
    """Delete the table as a reload of the host's ruleset does; other tables are not ours."""
    run(["nft", "delete", "table", "ip", pool._table._name])


@pytest.mark.parametrize("step", ["publish", "release"])
def test_a_flushed_table_is_made_anew_from_what_is_published(pool, step):
    port, other = _free_port(), _free_port()
    kept = pool.publish(pool.acquire(), [PortMapping(port, 80)])
    leaving = pool.publish(pool.acquire(), [PortMapping(other, 80)])
    with _answering(kept, 80, b"kept"):
        _flush(pool)
        if step == "publish":
            third = pool.publish(pool.acquire(), [PortMapping(_free_port(), 80)])
            pool.release(third)
        pool.release(leaving)
        assert _ask("127.0.0.1", port) == b"kept"
        assert _refused("127.0.0.1", other)
        again = pool.publish(pool.acquire(), [PortMapping(other, 80)])
        with _answering(again, 80, b"again"):
            assert _ask("127.0.0.1", other) == b"again"
        pool.release(again)
        pool.release(kept)


def test_a_flushed_table_comes_back_though_nobody_publishes(tmp_path, monkeypatch):
    monkeypatch.setattr(network_module, "_LOOK_EACH_S", 0.02)
    pool = NetworkPool(tmp_path, spare=0)
    try:
        _flush(pool)
        listed = ["nft", "list", "table", "ip", pool._table._name]
        wait_for(lambda: b"masquerade" in run(listed, check=False).stdout, "the table")
    finally:
        pool.close(remove=True)


def test_a_port_is_free_again_whatever_becomes_of_the_table(pool, monkeypatch):
    port = _free_port()
    network = pool.publish(pool.acquire(), [PortMapping(port, 80)])

    def fail(forwards):
        raise OSError("no nft")

    with monkeypatch.context() as patch:
        patch.setattr(pool._table, "remove", fail)
        with pytest.raises(OSError, match="no nft"):
            pool.release(network)
    socket.create_server(("127.0.0.1", port)).close()


def test_many_at_once_get_one_each(pool):
    with ThreadPoolExecutor(6) as threads:
        networks = list(threads.map(lambda _: pool.acquire(), range(6)))
    assert len({network.address for network in networks}) == 6
    for network in networks:
        pool.release(network)


def _let_it_work(pool):
    """Wait until the pool's thread has done all it was given, and looks for the next thing."""
    done = threading.Event()
    pool._jobs.put(done.set)
    assert done.wait(20)


def test_no_spare_is_made_while_whoever_took_one_is_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(network_module, "_CALM_S", 3600)
    pool = NetworkPool(tmp_path, spare=1)
    try:
        wait_for(lambda: pool._ready, "the first spare")
        taken = pool.acquire()
        _let_it_work(pool)
        assert pool._until_refill() > 3000
        assert not pool._ready
        pool.release(taken)
    finally:
        pool.close(remove=True)  # and the end waits for nobody's hour
    assert list((tmp_path / "run" / "netns").iterdir()) == []


def test_networks_are_destroyed_while_no_spare_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(network_module, "_CALM_S", 3600)
    pool = NetworkPool(tmp_path, spare=1)
    try:
        wait_for(lambda: pool._ready, "the first spare")
        taken = pool.acquire()
        pool.release(taken)
        wait_for(lambda: not taken.path.exists(), "the end of the network")
    finally:
        pool.close(remove=True)


def test_the_calm_is_one_for_all_and_counts_from_the_last(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(network_module, "time", clock)
    monkeypatch.setattr(network_module, "_CALM_S", 500.0)
    pool = NetworkPool(tmp_path, spare=3)
    try:
        wait_for(lambda: len(pool._ready) == 3, "the first spares")
        for _ in range(3):
            pool.acquire()
            clock.now += 300
        _let_it_work(pool)
        assert not pool._ready, "500 s since the first, not since the last"
        clock.now += 200
        _let_it_work(pool)
        wait_for(lambda: len(pool._ready) == 3, "three spares after one calm")
    finally:
        pool.close(remove=True)


def test_a_spare_that_cannot_be_made_is_not_tried_over_and_over(tmp_path, monkeypatch):
    monkeypatch.setattr(network_module, "_CALM_S", 0.0)
    pool = NetworkPool(tmp_path, spare=1)
    tries = []

    def build(*_, **__):
        tries.append(True)
        raise OSError("no more links")

    try:
        wait_for(lambda: pool._ready, "the first spare")
        monkeypatch.setattr(pool._plumber, "build", build)
        pool.acquire()
        wait_for(lambda: tries, "the try")
        _let_it_work(pool)
        assert pool._until_refill() is None
        assert len(tries) == 1
    finally:
        pool.close(remove=True)


def test_nothing_is_left(tmp_path):
    pool = NetworkPool(tmp_path, spare=2)
    network = pool.publish(pool.acquire(), [PortMapping(_free_port(), 80)])
    pool.release(network)
    pool.close(remove=True)
    name = root_id(tmp_path)
    assert f"hotstart_{name}" not in run(["nft", "list", "tables"]).text
    assert f"hs{name}" not in run(["ip", "-brief", "link"]).text
    assert list((tmp_path / "run" / "netns").iterdir()) == []
