"""The one door to subprocesses: no shell, ever; a failure is logged once, copy-pastable.

Nothing else in Hotstart imports ``subprocess`` or calls ``os.fork`` and ``exec`` (a test holds
it; the keeper, which must import the standard library only, is the one exception).
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from hotstart.core.errors import HotstartError, Unsupported
from hotstart.core.log import get_logger

log = get_logger(__name__)

Stream: TypeAlias = int | IO[bytes] | None


class CommandFailed(HotstartError):
    """A program ended with a non-zero status. ``stderr`` holds its last words."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        super().__init__(f"{argv[0]}: exit status {status}: {_telling_line(stderr)}")
        self.argv = list(argv)
        self.status = status
        self.stderr = stderr


def _telling_line(stderr: str) -> str:
    """Return the first line that says it is an error, else the last one."""
    lines = stderr.strip().splitlines() or ["no message"]
    return next((line for line in lines if "Error:" in line), lines[-1])


class CommandTimedOut(HotstartError):
    """A program did not end in time and was killed."""

    def __init__(self, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__(f"{argv[0]}: no end after {timeout_s:g} s")
        self.argv = list(argv)
        self.timeout_s = timeout_s


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended; its output as bytes."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout_s: float | None = None,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end and return what it printed.

    Raises CommandFailed (with ``check``), CommandTimedOut, or Unsupported if it isn't installed.
    """
    try:
        # SAFETY: argv is a list and shell is never used, so no word is interpreted.
        done = subprocess.run(
            list(argv),
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=timeout_s,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            pass_fds=pass_fds,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise CommandTimedOut(argv, timeout_s or 0.0) from err
    except FileNotFoundError as err:
        raise Unsupported(f"{argv[0]} is not installed or not on PATH") from err
    if check and done.returncode != 0:
        stderr = done.stderr.decode(errors="replace")
        log.info("command_failed", command=shlex.join(argv), status=done.returncode)
        raise CommandFailed(argv, done.returncode, stderr)
    return Completed(done.returncode, done.stdout, done.stderr)


def spawn(
    argv: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program and return it; the caller owns it and must wait for it.

    Streams take a descriptor, a file, ``PIPE`` or ``DEVNULL`` of this module. With
    ``new_session`` it outlives the caller's terminal. Raises Unsupported if it isn't installed.
    """
    try:
        return subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=new_session,
        )
    except FileNotFoundError as err:
        raise Unsupported(f"{argv[0]} is not installed or not on PATH") from err


PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
Process = subprocess.Popen[bytes]
TimeoutExpired = subprocess.TimeoutExpired
