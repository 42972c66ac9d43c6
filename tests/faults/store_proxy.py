"""A proxy in front of a real S3 server that spoils what passes through it, as a test says.

It speaks HTTP/1.1 with clients and forwards each request whole, the Host header included, so that
signatures stay right. A *fault* is put in by ``inject``: it is done to every request that fits,
``times`` times or until ``heal``. ``hits`` counts what was spoiled, ``passed`` what was not.
"""

import contextlib
import http.client
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CODES = {
    403: b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>",
    404: b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>",
    500: b"<Error><Code>InternalError</Code><Message>again</Message></Error>",
    503: b"<Error><Code>ServiceUnavailable</Code></Error>",
}


@dataclass
class Request:
    method: str
    path: str
    headers: dict


@dataclass
class Reply:
    """What goes to the client: ``declared`` as Content-Length, and of ``body`` what is there."""

    status: int
    headers: dict
    body: bytes
    declared: int
    reset: bool = False


@dataclass
class _Injected:
    spoil: object
    fits: object
    left: float
    hits: int = 0


@dataclass
class StoreProxy:
    """``with StoreProxy(endpoint) as proxy``: answers at ``proxy.endpoint``."""

    upstream: str
    passed: int = 0
    _faults: list = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self):
        self._open(0)
        return self

    def __exit__(self, *_):
        self.heal()
        self._close()

    def _open(self, port):
        self._over = threading.Event()
        self._clients = set()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.port = self._server.server_address[1]

    def _close(self):
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def leave(self):
        """Be away: connections are cut, and further ones refused."""
        self._close()

    def come_back(self):
        self._open(self.port)

    def inject(self, spoil, *, times=float("inf"), fits=lambda request: True):
        """Do ``spoil(request, reply)`` to requests that fit; returns what counts its ``hits``."""
        injected = _Injected(spoil, fits, times)
        with self._lock:
            self._faults.append(injected)
        return injected

    def heal(self):
        """Let everything through from now on; stalled requests are cut."""
        with self._lock:
            self._faults.clear()
        self._over.set()
        self._over = threading.Event()

    def fault_of(self, request):
        with self._lock:
            for fault in self._faults:
                if fault.left > 0 and fault.fits(request):
                    fault.left -= 1
                    fault.hits += 1
                    self._tell()
                    return fault.spoil
            self.passed += 1
        return None

    def _tell(self):
        with self._seen:
            self._seen.notify_all()

    def await_hits(self, injected, count, timeout_s=30):
        """Block until a fault has been done ``count`` times."""
        with self._seen:
            assert self._seen.wait_for(lambda: injected.hits >= count, timeout_s)

    @property
    def over(self):
        return self._over

    @property
    def clients(self):
        return self._clients


class Stalled(Exception):
    """The request is never answered."""


# What can be done to a request. Each takes the request and a function that gives the true reply.


def answers(status, body=None):
    """Answer with this status instead."""
    content = CODES[status] if body is None else body
    return lambda request, true: Reply(status, {"Retry-After": "1"}, content, len(content))


slow_down = answers(503, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")


def delayed(seconds):
    """Answer rightly, later."""

    def spoil(request, true):
        threading.Event().wait(seconds)  # a store that is slow
        return true()

    return spoil


def resets(request, true):
    """Cut the connection with a reset in the middle of the body."""
    reply = true()
    reply.body, reply.reset = reply.body[: len(reply.body) // 2], True
    return reply


def ends_early(request, true):
    """Close the connection in the middle of the body."""
    reply = true()
    reply.body = reply.body[: len(reply.body) // 2]
    return reply


def is_short(request, true):
    """Declare and send only half of what was asked for."""
    reply = true()
    reply.body = reply.body[: len(reply.body) // 2]
    reply.declared = len(reply.body)
    return reply


def is_long(request, true):
    """Declare and send more than was asked for."""
    reply = true()
    reply.body += b"\0" * 4096
    reply.declared = len(reply.body)
    return reply


def flips(request, true):
    """Flip a bit in the middle of the body, and one at its end."""
    reply = true()
    body = bytearray(reply.body)
    for at in range(0, len(body), 4096):
        body[at] ^= 1
    reply.body = bytes(body)
    return reply


def shifts(request, true):
    """Say that the bytes are those of another range."""
    reply = true()
    first, last, size = map(int, re.findall(r"\d+", reply.headers["Content-Range"]))
    reply.headers["Content-Range"] = f"bytes {first + 1}-{last + 1}/{size + 1}"
    return reply


def never_answers(request, true):
    """Take the request and stay silent."""
    raise Stalled


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.proxy.clients.add(self.connection)

    def finish(self):
        self.server.proxy.clients.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self):
        with contextlib.suppress(OSError):  # a client that is gone is no matter
            super().handle()

    def forward(self):
        proxy = self.server.proxy
        over = proxy.over
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, dict(self.headers.items()))
        spoil = proxy.fault_of(request)
        try:
            reply = self._true(body) if spoil is None else spoil(request, lambda: self._true(body))
        except Stalled:
            over.wait()
            self.close_connection = True
            return
        self._send(reply)

    def _true(self, body):
        host = urlsplit(self.server.proxy.upstream).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
            hop = ("connection", "transfer-encoding", "content-length", "date", "server")
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in hop}
            declared = int(answer.getheader("Content-Length") or len(content))
            return Reply(answer.status, headers, content, declared)
        finally:
            connection.close()

    def _send(self, reply):
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(reply.declared))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(reply.body)
        self.close_connection = reply.reset or reply.declared != len(reply.body)
        if reply.reset:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

    def log_message(self, *args):
        pass
