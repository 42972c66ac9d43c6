"""The link emulator's process: relays connections with a delay upwards and a pace downwards.

Reads one JSON line from standard input (target_port, round_trip_s, bytes_per_s, counters), binds
a free port on 127.0.0.1, writes ``{"port": N}`` and serves until standard input closes. Response
bytes go from socket to socket through a pipe with splice(2) and never enter this program, so that
the relay leaves the cores to what is measured. One thread; nothing here blocks.

A request is one burst from the client: it is handed on a whole round trip later, in order. Half
closes are passed on; a connection ends when both directions have, or when either side fails.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import mmap
import os
import socket
import sys
from collections import deque
from pathlib import Path

from bench.link_emulator import COUNTERS
from bench.link_pacing import Pacer

BURST = 256 * 1024
"""Bytes paced as one: at 90 MB/s a wake-up of the relay each 2.9 ms and connection."""

PIPE_BYTES = 1024 * 1024
SOON_S = 0.0005
"""Less than this is not worth a timer: epoll counts whole milliseconds."""


class Counters:
    """The shared numbers. Only this process writes them."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), COUNTERS.size)
        self._values = list(COUNTERS.unpack(self._map[: COUNTERS.size]))

    def add(self, index: int, amount: int) -> None:
        """Add to one number and publish all of them."""
        self._values[index] += amount
        COUNTERS.pack_into(self._map, 0, *self._values)


CONNECTIONS, REQUESTS, UP, DOWN = range(4)


class Connection:
    """One relayed connection; owns both sockets and a pipe."""

    def __init__(self, client: socket.socket, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._settings = settings
        self._server = socket.socket()
        self._server.setblocking(False)
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._pacer = Pacer(settings.bytes_per_s)
        self._in_pipe = 0
        self._upward: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._open_directions = 2
        self._closed = False

    async def start(self) -> None:
        """Connect to the store and begin to relay."""
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(self._server, ("127.0.0.1", self._settings.target_port))
        except OSError:
            self.close()
            return
        self._settings.counters.add(CONNECTIONS, 1)
        self._loop.add_reader(self._client, self._request_arrived)
        self._loop.add_reader(self._server, self._response_arrived)

    # Upwards: client -> store, each burst a round trip later.

    def _request_arrived(self) -> None:
        try:
            burst = self._client.recv(BURST)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not burst:
            self._loop.remove_reader(self._client)
        else:
            self._settings.counters.add(REQUESTS, 1)
            self._settings.counters.add(UP, len(burst))
        # An empty burst is the end of the stream; it takes the same way as the bytes before it.
        self._loop.call_later(self._settings.round_trip_s, self._hand_on, burst)

    def _hand_on(self, burst: bytes) -> None:
        if self._closed:
            return
        self._upward.append(burst)
        if len(self._upward) == 1:
            self._write_upward()

    def _write_upward(self) -> None:
        while self._upward:
            burst = self._upward[0]
            if not burst:
                self._end_direction(self._server)
                return
            try:
                sent = self._server.send(burst)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent < len(burst):
                self._upward[0] = burst[sent:]
                self._loop.add_writer(self._server, self._write_upward)
                return
            self._upward.popleft()
        self._loop.remove_writer(self._server)

    # Downwards: store -> client, paced.

    def _response_arrived(self) -> None:
        while not self._closed:
            try:
                taken = os.splice(self._server.fileno(), self._write_end, BURST)
            except BlockingIOError:
                self._pacer.idle()
                self._loop.add_reader(self._server, self._response_arrived)
                return
            except OSError:
                self.close()
                return
            if taken == 0:
                self._loop.remove_reader(self._server)
                self._end_direction(self._client)
                return
            self._in_pipe = taken
            now = self._loop.time()
            due = self._pacer.due(taken, now)
            if due - now > SOON_S:
                self._loop.remove_reader(self._server)
                self._timer = self._loop.call_at(due, self._deliver_and_go_on)
                return
            if not self._deliver():
                return

    def _deliver_and_go_on(self) -> None:
        if self._deliver():
            self._response_arrived()

    def _deliver(self) -> bool:
        """Move what is in the pipe to the client; True when all of it is gone."""
        while self._in_pipe:
            try:
                moved = os.splice(self._read_end, self._client.fileno(), self._in_pipe)
            except BlockingIOError:
                # The reader is slower than the link: the wire waits, and so does the store.
                self._pacer.idle()
                self._loop.remove_reader(self._server)
                self._loop.add_writer(self._client, self._client_writable)
                return False
            except OSError:
                self.close()
                return False
            self._in_pipe -= moved
            self._settings.counters.add(DOWN, moved)
        return True

    def _client_writable(self) -> None:
        self._loop.remove_writer(self._client)
        self._deliver_and_go_on()

    def _end_direction(self, receiver: socket.socket) -> None:
        self._open_directions -= 1
        if self._open_directions == 0:
            self.close()
            return
        try:
            receiver.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close everything, at once. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._settings.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for end in (self._client, self._server):
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            end.close()
        os.close(self._read_end)
        os.close(self._write_end)


class Settings:
    """What the parent asked for, and every connection that is open."""

    def __init__(self, line: bytes) -> None:
        values = json.loads(line)
        self.target_port = int(values["target_port"])
        self.round_trip_s = float(values["round_trip_s"])
        self.bytes_per_s = float(values["bytes_per_s"])
        self.counters = Counters(Path(values["counters"]))
        self.connections: set[Connection] = set()


async def serve(settings: Settings) -> None:
    """Relay until standard input closes."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
    with socket.socket() as listener:
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        os.write(1, json.dumps({"port": listener.getsockname()[1]}).encode() + b"\n")
        accepting = loop.create_task(_accept(listener, settings))
        await ended.wait()
        accepting.cancel()
    for connection in list(settings.connections):
        connection.close()


async def _accept(listener: socket.socket, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(listener)
        connection = Connection(client, settings)
        settings.connections.add(connection)
        await connection.start()


if __name__ == "__main__":
    asyncio.run(serve(Settings(sys.stdin.buffer.readline())))
