"""Whether a CRIU can do what Hotstart asks of it: its version, and a real dump and restore.

CRIU before 4.2 cannot dump any TCP socket on kernels from 6.16 on (SO_PASSCRED became an error on
sockets that are neither UNIX nor netlink), and a process without sockets does not show it. So
the self-test freezes and thaws a process that listens. Needs root; leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import HotstartError, Unsupported
from hotstart.core.run import DEVNULL, CommandFailed, Process, run, spawn

OLDEST = (4, 2)
"""The first release that dumps TCP sockets on kernels from 6.16 on."""

_LISTENER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[1], "w") as file:
    file.write(str(listener.getsockname()[1]) + "\\n")
while True:
    peer, _ = listener.accept()
    peer.sendall(sys.argv[2].encode())
    peer.close()
"""

_WAIT_S = 20.0
_ERROR = re.compile(r"Error \([^)]*\):\s*(.+)")
_HARMLESS = re.compile(r"rlimit: Can't setup RLIMIT_NOFILE for self")
"""CRIU goes on with the limit it has, where it may not raise that."""


class CriuUnfit(Unsupported):
    """This CRIU is too old for Hotstart or cannot dump and restore on this kernel."""


@dataclass(frozen=True, slots=True)
class CriuVersion:
    """A release of CRIU, for example 4.2.1."""

    numbers: tuple[int, ...]

    @property
    def fit(self) -> bool:
        """True from the oldest release on that Hotstart can use."""
        return self.numbers >= OLDEST

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers))


def version(criu: Sequence[str]) -> CriuVersion:
    """Return what ``criu --version`` says. Raises Unsupported (absent) or CriuUnfit (unreadable).

    ``criu`` is the start of a command: a path, or a loader with its arguments before one.
    """
    text = run([*criu, "--version"], timeout_s=_WAIT_S).text
    match = re.search(r"^Version:\s*(\d+(?:\.\d+)*)", text, re.MULTILINE)
    if match is None:
        raise CriuUnfit(f"{criu[-1]} --version: no version in {text[:80]!r}")
    return CriuVersion(tuple(int(number) for number in match[1].split(".")))


def require_fit(criu: Sequence[str]) -> CriuVersion:
    """Return the version, or raise CriuUnfit if it is older than Hotstart needs."""
    found = version(criu)
    if not found.fit:
        oldest = ".".join(map(str, OLDEST))
        raise CriuUnfit(f"{criu[-1]} is CRIU {found}, Hotstart needs {oldest}; run make setup")
    return found


def self_test(criu: Sequence[str], scratch: Path | None = None) -> float:
    """Dump and restore a listening process; return the seconds both took.

    Raises CriuUnfit with CRIU's own last error, CriuUnfit when the restored process doesn't
    answer as before. ``scratch`` is where the images lie while the test runs.
    """
    with tempfile.TemporaryDirectory(prefix="hotstart-criu-", dir=scratch) as name:
        directory = Path(name)
        token = os.urandom(8).hex()
        with _listening(directory, token) as (process, port):
            _expect_answer(port, token, "before the dump")
            started = time.monotonic()
            _criu(criu, "dump", directory, "--tree", str(process.pid))
            process.wait(timeout=_WAIT_S)
        pidfile = directory / "restored.pid"
        _criu(criu, "restore", directory, "--restore-detached", "--pidfile", str(pidfile))
        elapsed_s = time.monotonic() - started
        try:
            _expect_answer(port, token, "after the restore")
        finally:
            _end(int(pidfile.read_text()))
    return elapsed_s


@contextlib.contextmanager
def _listening(directory: Path, token: str) -> Iterator[tuple[Process, int]]:
    port_file = directory / "port"
    # The program of the host, not ours: a virtual environment may lie where CRIU cannot see it.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    argv = [python, "-I", "-S", "-c", _LISTENER, str(port_file), token]
    # A session of its own: CRIU refuses a process whose session leader it does not dump.
    process = spawn(argv, cwd=Path("/"), stdout=DEVNULL, stderr=DEVNULL, new_session=True)
    try:
        deadline = time.monotonic() + _WAIT_S
        while not (port_file.exists() and port_file.read_text().endswith("\n")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CriuUnfit(f"the self-test's process {python} does not start to listen")
            time.sleep(0.01)
        yield process, int(port_file.read_text())
    finally:
        process.kill()
        process.wait()


def _criu(criu: Sequence[str], verb: str, directory: Path, *options: str) -> None:
    log = directory / f"{verb}.log"
    argv = [*criu, verb, "--images-dir", str(directory), "--log-file", log.name, "-v4"]
    argv += ["--network-lock", "skip", "--manage-cgroups=ignore", *options]
    try:
        run(argv, timeout_s=_WAIT_S)
    except CommandFailed as err:
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        reason = next(iter(errors_in(text)), str(err))
        kernel = os.uname().release
        raise CriuUnfit(
            f"{criu[-1]}: cannot {verb} a process with a listening TCP socket on kernel {kernel}: "
            f"{reason}"
        ) from err
    except HotstartError as err:
        raise CriuUnfit(f"{criu[-1]} {verb}: {err}") from err


def errors_in(log: str) -> list[str]:
    """Return the errors in a CRIU log; the first one names the cause."""
    found = [match[1].strip() for line in log.splitlines() if (match := _ERROR.search(line))]
    return [error for error in found if not _HARMLESS.search(error)]


def _expect_answer(port: int, token: str, when: str) -> None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_WAIT_S) as peer:
            answer = peer.makefile("rb").read()
    except OSError as err:
        raise CriuUnfit(f"the self-test's process does not answer {when}: {err}") from err
    if answer != token.encode():
        raise CriuUnfit(f"the self-test's process answers {answer!r} {when}, expected {token!r}")


def _end(pid: int) -> None:
    """Kill the restored process and wait until it is gone, whoever its parent is by now."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _WAIT_S)
        finally:
            os.close(pidfd)
    # Only a child of ours (we may be a subreaper) waits to be collected by us.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
