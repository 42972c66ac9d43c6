"""Sends golden requests into a container: HTTP inside its network namespace, or a program in it.

A request uses the container's own loopback, so it needs no published port and works apart from the
world (rehearsals have loopback only). Entering the namespace needs CAP_SYS_ADMIN; it happens in a
thread that ends with the request. Nothing is retried here: an answer is compared, a failure told.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from hotstart.core.errors import HotstartError
from hotstart.kernel.namespaces import call_in_network
from snapshotter.golden import Answer, GoldenRequest

MAX_ANSWER_BYTES = 64 << 20


class GoldenUnanswered(HotstartError):
    """A golden request got no answer: refused, reset, too slow, or larger than allowed."""

    def __init__(self, request: GoldenRequest, why: str) -> None:
        super().__init__(f"golden request {name_of(request)}: {why}")
        self.request = request
        self.why = why


class RunInside(Protocol):
    """Runs a program in the container: returns its exit status and standard output."""

    def __call__(self, argv: Sequence[str], timeout_s: float, /) -> tuple[int, bytes]: ...


def name_of(request: GoldenRequest) -> str:
    """Return how messages call a request."""
    if request.exec:
        return "exec " + " ".join(request.exec)
    return f"{request.method} :{request.port}{request.path}"


def send(
    request: GoldenRequest, network: Path, run_inside: RunInside, *, timeout_s: float = 60.0
) -> Answer:
    """Send one request and return its answer. Raises GoldenUnanswered.

    ``network`` is the file that keeps the container's network namespace.
    """
    if request.exec:
        return Answer(*run_inside(request.exec, timeout_s))
    return call_in_network(network, lambda: _ask(request, timeout_s))


def answers(
    requests: Sequence[GoldenRequest], sender: Callable[[GoldenRequest], Answer]
) -> tuple[Answer, ...]:
    """Send requests one after another, in order: a server's state may depend on it."""
    return tuple(sender(request) for request in requests)


def _ask(request: GoldenRequest, timeout_s: float) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", request.port, timeout=timeout_s)
    try:
        headers = {"Connection": "close", **request.headers}
        connection.request(request.method, request.path, request.body or None, headers)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as err:
        raise GoldenUnanswered(request, _why(err, request.port, timeout_s)) from err
    finally:
        connection.close()
    if len(body) > MAX_ANSWER_BYTES:
        raise GoldenUnanswered(request, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return Answer(response.status, body)


def _why(err: Exception, port: int, timeout_s: float) -> str:
    if isinstance(err, ConnectionRefusedError):
        return f"nobody listens on port {port} in the container"
    if isinstance(err, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(err, http.client.HTTPException):
        return f"the answer is not HTTP: {type(err).__name__}: {err}"
    return f"no whole answer: {err}"
