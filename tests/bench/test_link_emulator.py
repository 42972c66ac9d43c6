"""The emulated link against a store that answers ``N\\n`` with N bytes of a known stream."""

import contextlib
import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.link_emulator import Link, LinkEmulator, RelayFailed, read_counters

BLOCK = bytes(range(256)) * 4096
FREE = Link(round_trip_ms=0, megabytes_per_s=0)


class Store:
    """Echoes a digest of what it was sent, or sends as many bytes as it is asked for."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer):
        with peer, peer.makefile("rb") as lines:
            while line := lines.readline():
                verb, _, count = line.partition(b" ")
                if verb == b"GET":
                    _send(peer, int(count))
                else:
                    peer.sendall(hashlib.sha256(lines.read(int(count))).digest())

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


def _send(peer, count):
    while count > 0:
        piece = BLOCK[:count]
        peer.sendall(piece)
        count -= len(piece)


def get(port, *counts):
    """Return the digest of everything that a connection got for its requests."""
    digest = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for count in counts:
            connection.sendall(b"GET %d\n" % count)
            left = count
            while left:
                part = connection.recv(min(left, 1 << 20))
                assert part
                digest.update(part)
                left -= len(part)
    return digest.hexdigest()


def expected(*counts):
    digest = hashlib.sha256()
    for count in counts:
        whole, rest = divmod(count, len(BLOCK))
        for _ in range(whole):
            digest.update(BLOCK)
        digest.update(BLOCK[:rest])
    return digest.hexdigest()


@pytest.fixture
def store():
    store = Store()
    yield store
    store.close()


def test_bodies_pass_unchanged_and_are_counted(store, tmp_path):
    counts = (1, 4096, 300_001, 5 << 20)
    with LinkEmulator(store.port, FREE, tmp_path) as link:
        assert get(link.port, *counts) == expected(*counts)
        count = link.count()
    assert count.connections == 1
    assert count.requests == len(counts)
    assert count.bytes_down == sum(counts)
    assert count.bytes_up == sum(len(b"GET %d\n" % n) for n in counts)


def test_many_connections_at_once_each_get_their_own_bytes(store, tmp_path):
    sizes = [(n * 7919 + 1, n * 104_729 + 3) for n in range(40)]
    with (
        LinkEmulator(store.port, FREE, tmp_path) as link,
        ThreadPoolExecutor(len(sizes)) as pool,
    ):
        found = list(pool.map(lambda pair: get(link.port, *pair), sizes))
        assert found == [expected(*pair) for pair in sizes]
        assert link.count().connections == len(sizes)
        assert link.count().bytes_down == sum(map(sum, sizes))


def test_uploads_larger_than_every_buffer_arrive_in_order(store, tmp_path):
    body = os.urandom(3 << 20)
    with (
        LinkEmulator(store.port, Link(2, 0), tmp_path) as link,
        socket.create_connection(("127.0.0.1", link.port)) as connection,
    ):
        connection.sendall(b"PUT %d\n" % len(body) + body)
        assert connection.recv(32, socket.MSG_WAITALL) == hashlib.sha256(body).digest()


def test_nothing_comes_sooner_than_the_link_allows(store, tmp_path):
    """Lower bounds only: load makes a transfer later, never sooner."""
    link = Link(round_trip_ms=20, megabytes_per_s=20)
    requests, size = 5, 400_000
    with LinkEmulator(store.port, link, tmp_path) as emulator:
        start = time.monotonic()
        get(emulator.port, *[size] * requests)
        elapsed = time.monotonic() - start
        assert emulator.count().requests == requests
    assert elapsed >= requests * (0.020 + size / 20e6) * 0.98


def test_the_rate_is_one_of_each_connection(store, tmp_path):
    """Four connections carry four times the bytes of one in less than four times its wire time."""
    size = 2_000_000
    with (
        LinkEmulator(store.port, Link(0, 10), tmp_path) as link,
        ThreadPoolExecutor(4) as pool,
    ):
        start = time.monotonic()
        assert list(pool.map(lambda _: get(link.port, size), range(4))) == [expected(size)] * 4
        assert time.monotonic() - start >= size / 10e6 * 0.98
        # The relay counts after it has sent: the last bytes may be here before their count.
        deadline = time.monotonic() + 10
        while link.count().bytes_down != 4 * size:
            assert time.monotonic() < deadline, link.count()


def test_end_of_stream_is_passed_on_both_ways(store, tmp_path):
    with (
        LinkEmulator(store.port, FREE, tmp_path) as link,
        socket.create_connection(("127.0.0.1", link.port)) as connection,
    ):
        connection.sendall(b"GET 100000\n")
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received == BLOCK[:100_000]


def test_a_store_that_is_down_closes_the_connection(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    with LinkEmulator(port, FREE, tmp_path) as link:
        connection = socket.create_connection(("127.0.0.1", link.port))
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_leaving_the_context_ends_the_process_and_removes_the_counters(store, tmp_path):
    with LinkEmulator(store.port, FREE, tmp_path) as link:
        counters, pid = link.counters, link.process_id
        assert read_counters(counters).requests == 0
    assert not counters.exists()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(RelayFailed, match="not running"):
        link.count()
