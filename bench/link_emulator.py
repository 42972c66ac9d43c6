"""A distant object store on the loopback: a TCP relay with a round trip and a rate per connection.

``LinkEmulator`` owns one child process (bench.link_relay) for as long as its ``with`` block
lasts; the child ends when the block does, or when this process dies, because its standard input
closes. Requests are delayed by a whole round trip, responses are paced to the rate; connection
set-up and TLS are not emulated, which favours whoever opens many connections.

Bytes and requests are counted in a small shared file, which any process may read at any moment:
the poller does so at the instant of the first answer.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import bench
from hotstart.core.errors import Unavailable
from hotstart.core.run import PIPE, Process, TimeoutExpired, spawn

COUNTERS = struct.Struct("=4Q")
"""Connections, requests, bytes to the store, bytes from the store; since the relay began."""

STOP_TIMEOUT_S = 5.0
SOURCE = Path(bench.__file__).parents[1]
"""Where the packages are, installed or not: python -m looks in its working directory first."""


class RelayFailed(Unavailable):
    """The relay's process did not start or did not answer."""


@dataclass(frozen=True, slots=True)
class Link:
    """What is emulated: milliseconds a round trip, megabytes (10^6) a second and connection."""

    round_trip_ms: float = 15.0
    megabytes_per_s: float = 90.0

    def as_dict(self) -> dict[str, object]:
        """Return the link as the result document has it."""
        return {
            "round_trip_ms": self.round_trip_ms,
            "megabytes_per_s_per_connection": self.megabytes_per_s,
            "handshakes": "not emulated",
        }


class LinkCount(NamedTuple):
    """What has gone over the link since it began."""

    connections: int
    requests: int
    bytes_up: int
    bytes_down: int


def read_counters(path: Path) -> LinkCount:
    """Read the counters of a running (or ended) relay; costs one system call or two."""
    with path.open("rb") as file:
        return LinkCount(*COUNTERS.unpack(file.read(COUNTERS.size)))


class LinkEmulator:
    """Relays ``127.0.0.1:port`` to ``target_port`` while the ``with`` block lasts."""

    def __init__(self, target_port: int, link: Link, scratch: Path | None = None) -> None:
        self.link = link
        self.port = 0
        self._target_port = target_port
        self._scratch = scratch
        self._process: Process | None = None
        self._counters: Path | None = None

    def __enter__(self) -> LinkEmulator:
        with tempfile.NamedTemporaryFile(
            prefix="link-", suffix=".counters", dir=self._scratch, delete=False
        ) as file:
            file.write(COUNTERS.pack(0, 0, 0, 0))
        self._counters = Path(file.name)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def counters(self) -> Path:
        """The shared file of counters, for ``read_counters`` in any process."""
        if self._counters is None:
            raise RelayFailed("the link emulator is not running: enter its context first")
        return self._counters

    @property
    def process_id(self) -> int:
        """The relay's process id, for whoever measures its CPU time."""
        if self._process is None:
            raise RelayFailed("the link emulator is not running: enter its context first")
        return self._process.pid

    def count(self) -> LinkCount:
        """Return what has gone over the link so far."""
        return read_counters(self.counters)

    def stop(self) -> None:
        """End the relay and remove its file. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        counters, self._counters = self._counters, None
        if counters is not None:
            counters.unlink(missing_ok=True)

    def _start(self) -> None:
        settings = {
            "target_port": self._target_port,
            "round_trip_s": self.link.round_trip_ms / 1e3,
            "bytes_per_s": self.link.megabytes_per_s * 1e6,
            "counters": str(self._counters),
        }
        process = spawn(
            [sys.executable, "-m", "bench.link_relay"],
            stdin=PIPE,
            stdout=PIPE,
            cwd=SOURCE,
            new_session=True,  # an interrupt of the terminal is the caller's to handle
        )
        self._process = process
        if process.stdin is None or process.stdout is None:  # PIPE was asked for above
            raise RelayFailed("link relay: started without pipes")
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RelayFailed(f"link relay: ended with status {process.wait()} before it listened")
        self.port = int(json.loads(line)["port"])


def _end(process: Process) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except TimeoutExpired:
        process.kill()
        process.wait()
