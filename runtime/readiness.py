"""When a container is ready: a probe from inside its own network, until it succeeds.

    http://HOST:PORT/PATH   answers with a status below 400 (HOST: an address, or any name for
                            the container itself)
    tcp:PORT                accepts a connection
    exec:COMMAND            ends with status 0 (words split as a shell would, no shell)

A thread enters the network namespace; nothing is published for it. The first tries follow each
other within a millisecond, later ones back off. A container that ends is noticed at once, between
two tries by its pidfd. Failure carries the container's last lines.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from hotstart.core.errors import HotstartError, UserError
from hotstart.kernel.namespaces import call_in_network
from hotstart.kernel.pidfd import ProcessIdentity, opened, wait_fd
from runtime.bundle import exec_process
from runtime.container_directory import ContainerDirectory, running_process
from runtime.execution import execute
from runtime.links import Network
from runtime.logs import last_lines
from runtime.runc import ProgramNotFound, Programs, Runc

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02
_LONGEST_EXEC_PAUSE_S = 0.5
_BACK_OFF = 1.3
_ATTEMPT_S = 10.0
_FIRST_ERROR_STATUS = 400
_HIGHEST_PORT = 65535


class NotReady(HotstartError):
    """The container did not become ready; ``lines`` are the last ones it wrote."""

    def __init__(self, container: str, reason: str, lines: list[str]) -> None:
        said = "".join(f"\n  {line}" for line in lines)
        tail = f"; its last lines:{said}" if lines else "; it wrote nothing"
        super().__init__(f"{container} did not become ready: {reason}{tail}")
        self.container = container
        self.reason = reason
        self.lines = lines


class Attempt(Protocol):
    """One kind of probe."""

    def __call__(self, timeout_s: float, /) -> str | None:
        """Try once, within ``timeout_s``; return None for success, else what was wrong."""


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """GET ``target`` on one address and port."""

    addresses: tuple[str, ...]
    port: int
    host: str
    target: str

    def __call__(self, timeout_s: float, /) -> str | None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.sock = _connect(self.addresses, self.port, timeout_s)
            connection.request("GET", self.target, headers={"Connection": "close"})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as err:
            return f"GET {self.target} on port {self.port}: {_words(err)}"
        finally:
            connection.close()
        if status >= _FIRST_ERROR_STATUS:
            return f"GET {self.target} on port {self.port} answers status {status}"
        return None


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """Connect to a port of the container."""

    port: int

    def __call__(self, timeout_s: float, /) -> str | None:
        try:
            _connect(("127.0.0.1", "::1"), self.port, timeout_s).close()
        except OSError as err:
            return f"port {self.port}: {_words(err)}"
        return None


@dataclass(frozen=True, slots=True)
class ExecProbe:
    """Run a program in the container."""

    argv: tuple[str, ...]


Probe = HttpProbe | TcpProbe | ExecProbe


def parse_probe(text: str) -> Probe:
    """Read a probe. Raises UserError for anything but the three kinds."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "tcp":
        return TcpProbe(_port(rest, text))
    if colon and kind == "exec":
        return ExecProbe(_words_of_command(rest, text))
    if text.startswith("http://"):
        return _parse_url(text)
    raise _not_a_probe(text)


def _not_a_probe(text: str) -> UserError:
    return UserError(
        f"not a readiness probe: {text[:80]!r}", "write http://HOST:PORT/PATH, tcp:PORT or exec:CMD"
    )


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _HIGHEST_PORT):
        raise _not_a_probe(whole)
    return int(text)


def _words_of_command(text: str, whole: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as err:
        raise _not_a_probe(whole) from err
    if not words:
        raise _not_a_probe(whole)
    return words


def _parse_url(text: str) -> HttpProbe:
    try:
        url = urlsplit(text)
        port, host = url.port or 80, url.hostname or ""
    except ValueError as err:
        raise _not_a_probe(text) from err
    if any(ord(letter) <= ord(" ") for letter in text) or not host or url.username:
        raise _not_a_probe(text)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        addresses: tuple[str, ...] = (str(ipaddress.ip_address(host)),)
    except ValueError:
        addresses = ("127.0.0.1", "::1")
    if addresses[0] in ("0.0.0.0", "::"):  # noqa: S104 - what people write for "the container"
        addresses = ("127.0.0.1", "::1")
    return HttpProbe(addresses, port, host, target)


def wait_ready(
    directory: ContainerDirectory,
    network: Network,
    probe: str,
    timeout_s: float,
    *,
    programs: Programs | None = None,
) -> None:
    """Block until the probe succeeds. Raises NotReady on time-out and when the container ends.

    A program that is not in the container is not waited for.
    """
    wanted = parse_probe(probe)
    process = running_process(directory)
    if isinstance(wanted, ExecProbe):
        attempt = _exec_attempt(directory, wanted, programs or Programs.find())
        try:
            reason = _poll(attempt, process, timeout_s, _LONGEST_EXEC_PAUSE_S)
        except ProgramNotFound as err:
            # A container that ends may lose its root directory first.
            told = str(err).removeprefix(f"{directory.name}: ")  # the sentence begins with it
            reason = _ENDED if running_process(directory) is None else f"{told}; {err.hint}"
    else:
        longest = _LONGEST_PAUSE_S
        reason = call_in_network(
            Path(network.netns), lambda: _poll(wanted, process, timeout_s, longest)
        )
    if reason is not None:
        raise NotReady(directory.name, _with_end(directory, reason), last_lines(directory))


_ENDED = "it has ended"


def _poll(
    attempt: Attempt, process: ProcessIdentity | None, timeout_s: float, longest_s: float
) -> str | None:
    """Try until success (None), the end of the process, or the time limit.

    A try that the limit cuts short says less than the one before it.
    """
    if process is None:
        return _ENDED
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    told = ""
    with opened(process) as fd:
        while fd is not None:
            left = deadline - time.monotonic()
            wrong = attempt(max(0.01, min(left, _ATTEMPT_S)))
            if wrong is None:
                return None
            left = deadline - time.monotonic()
            told = wrong if left > 0 or not told else told
            if wait_fd(fd, min(pause_s, max(0.0, left))):
                break
            if left <= 0:
                return f"no success in {timeout_s:g} s ({told})"
            pause_s = min(pause_s * _BACK_OFF, longest_s)
    return _ENDED


def _with_end(directory: ContainerDirectory, reason: str) -> str:
    """Add the exit status, which conmon notes a moment after the process has ended."""
    if reason != _ENDED:
        return reason
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            return f"{reason} with status {int(directory.exit_file.read_text())}"
        except (FileNotFoundError, ValueError):
            time.sleep(0.005)
    return reason


def _connect(addresses: tuple[str, ...], port: int, timeout_s: float) -> socket.socket:
    """Connect to the first address that accepts; raises the first one's error."""
    first: OSError | None = None
    for address in addresses:
        try:
            connected = socket.create_connection((address, port), timeout=timeout_s)
        except OSError as err:
            first = first or err
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise first or OSError("no address")


def _exec_attempt(
    directory: ContainerDirectory, probe: ExecProbe, programs: Programs
) -> Callable[[float], str | None]:
    runc = Runc(programs, directory)
    process = exec_process(directory, probe.argv)

    def attempt(timeout_s: float) -> str | None:
        try:
            with execute(directory, runc, process) as execution:
                outcome = execution.communicate(timeout_s=timeout_s)
        except ProgramNotFound:
            raise
        except (HotstartError, OSError) as err:
            return str(err)
        if outcome.status == 0:
            return None
        said = outcome.stderr.decode(errors="replace").strip().splitlines()
        return f"{probe.argv[0]} ends with status {outcome.status}" + (
            f": {said[-1]}" if said else ""
        )

    return attempt


def _words(err: Exception) -> str:
    if isinstance(err, TimeoutError):
        return "no answer in time"
    if isinstance(err, OSError) and err.errno is not None:
        return os.strerror(err.errno).lower()
    return str(err) or type(err).__name__
