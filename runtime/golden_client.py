"""Sends golden requests to a container: HTTP inside its network namespace, or a program.

HTTP by the standard library, one connection a request, to the loopback address; the answer's body
is returned whole. A program is run as ``exec`` would run it.
"""

from __future__ import annotations

import http.client
from pathlib import Path

from hotstart.core.errors import HotstartError, Unavailable
from hotstart.kernel.namespaces import call_in_network
from runtime.bundle import exec_process
from runtime.container_directory import ContainerDirectory
from runtime.execution import execute
from runtime.runc import Runc
from snapshotter.golden import Answer, GoldenRequest

_BODY_LIMIT = 64 << 20
TIMEOUT_S = 120.0


class NoAnswer(Unavailable):
    """A golden request got no answer."""


class GoldenClient:
    """Asks one container, whose network namespace is at ``netns``."""

    def __init__(self, directory: ContainerDirectory, runc: Runc, netns: Path) -> None:
        self._directory = directory
        self._runc = runc
        self._netns = netns

    def ask(self, request: GoldenRequest, timeout_s: float = TIMEOUT_S) -> Answer:
        """Send one request and return its answer. Raises NoAnswer."""
        if request.argv:
            return self._execute(request, timeout_s)
        where = f"{self._directory.name}: {request.method} {request.path} on {request.port}"
        try:
            return call_in_network(self._netns, lambda: _http(request, timeout_s))
        except (OSError, http.client.HTTPException) as err:
            raise NoAnswer(f"{where}: no answer: {err!r}") from err

    def _execute(self, request: GoldenRequest, timeout_s: float) -> Answer:
        process = exec_process(self._directory, request.argv)
        try:
            with execute(self._directory, self._runc, process) as execution:
                outcome = execution.communicate(timeout_s=timeout_s)
        except HotstartError as err:
            raise NoAnswer(f"{self._directory.name}: {request.argv[0]}: {err}") from err
        return Answer(outcome.status, outcome.stdout)


def _http(request: GoldenRequest, timeout_s: float) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", request.port, timeout=timeout_s)
    try:
        headers = {"Connection": "close", **request.headers}
        connection.request(request.method, request.path, request.body or None, headers)
        response = connection.getresponse()
        body = response.read(_BODY_LIMIT + 1)
    finally:
        connection.close()
    if len(body) > _BODY_LIMIT:
        raise http.client.HTTPException(f"the answer is longer than {_BODY_LIMIT} bytes")
    return Answer(response.status, body)
