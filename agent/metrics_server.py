"""The HTTP end of the metrics: GET /metrics at one address, while the agent lives.

A thread waits for scrapes, each gets a thread of its own and a look at the node; at most
SCRAPES_AT_ONCE, and a client that has not said what it wants is left after CLIENT_S. Scrapes are
read-only and nobody is asked who he is: the address decides who can. ``close`` ends the listening
and leaves scrapes under way to themselves.
"""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader, RawIOBase
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from agent.metrics import NodeCollector
from agent.metrics_address import MetricsAddress
from agent.observation import Observation
from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = get_logger(__name__)

SCRAPES_AT_ONCE = 8
CLIENT_S = 10.0
SHORTAGE_S = 0.1
"""Pause after a connection that could not be taken."""


class _UntilThen(RawIOBase):
    """What a client says within ``timeout_s`` from now, however many pieces it comes in."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401  # a buffer, not typed before 3.12
        """Read what is there. Raises TimeoutError."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the client takes too long to say what it wants")
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._timeout_s)  # of the answer


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_S

    def setup(self) -> None:
        """Give the request a deadline: the connection's own holds for each piece of it."""
        super().setup()
        self.rfile.close()
        self.rfile = BufferedReader(_UntilThen(self.connection, self.timeout))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401  # its own name
        """Log nothing: a scrape is no event."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Listens from its making on; answers from ``start`` on, with what ``observe`` sees."""

    daemon_threads = True

    def __init__(self, address: MetricsAddress) -> None:
        """Raises MetricsAddressTaken, MetricsAddressUnusable."""
        listening = address.listen()
        # Its own way to bind would ask the name service for this machine's name, and wait.
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = address.host, listening.getsockname()[1]
        self.setup_environ()
        self.address = replace(address, port=self.server_port)
        self._room = threading.BoundedSemaphore(SCRAPES_AT_ONCE)
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="metrics", daemon=True)

    def start(self, observe: Callable[[], Observation], version: str) -> None:
        """Begin to answer."""
        registry = CollectorRegistry()
        registry.register(NodeCollector(observe, version))
        ProcessCollector(registry=registry)
        self.set_app(_only_metrics(make_wsgi_app(registry)))
        self._thread.start()

    def close(self) -> None:
        """Take no more scrapes."""
        self._closing = True
        if self._thread.is_alive():
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._thread.join()
        self.server_close()

    def _accept(self) -> None:
        while not self._closing:
            self.handle_request()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection."""
        try:
            return super().get_request()
        except OSError:
            if not self._closing:  # descriptors are short; the connection waits meanwhile
                time.sleep(SHORTAGE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # its own
        """Answer in a thread; hang up on whoever is one too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer, then make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say that a client was lost: it said nothing, or left."""
        log.info("scrape_broken", client=client_address)


def _only_metrics(app: WSGIApplication) -> WSGIApplication:
    """Serve ``app`` at /metrics alone; a failed scrape is an answer and a line in the log."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != "/metrics":
            return _say(start_response, "404 Not Found", "metrics are at /metrics")
        try:
            return app(environ, start_response)
        except HotstartError as err:  # the agent goes down
            return _say(start_response, "503 Service Unavailable", str(err))
        except Exception as err:
            trace = traceback.format_exc()
            log.error("scrape_failed", error=err, trace=trace)  # noqa: TRY400  # as a field
            return _say(start_response, "500 Internal Server Error", "see agent.log")

    return answer


def _say(start_response: StartResponse, status: str, sentence: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{sentence}\n".encode()]


@contextmanager
def listening(text: str) -> Iterator[MetricsServer]:
    """Listen at HOST:PORT until the block ends. Raises as MetricsServer does."""
    server = MetricsServer(MetricsAddress.parse(text))
    try:
        yield server
    finally:
        server.close()
