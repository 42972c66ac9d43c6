"""A further program in a running container: stdin, stdout, stderr as pipes, its exit status.

``runc exec`` copies between our pipes and the program's. The program is its child, so its pid
(from the pid file) is what is killed: killing runc alone would leave the program running. conmon
is not involved: nothing needs a log of it, and conmon's exit file would overwrite the container's.
Everything is gone at the end of the block, the program included.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotstart.core.run import PIPE, Process, TimeoutExpired, spawn
from hotstart.kernel.pidfd import ProcessIdentity, send_signal
from runtime.adoption import adopt
from runtime.container_directory import ContainerDirectory
from runtime.runc import Runc, failure

KILLED_STATUS = 128 + signal.SIGKILL
_NOT_STARTED = 255
_LINGER_S = 5.0
_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the program ended; 128 + n after signal n."""

    status: int
    stdout: bytes
    stderr: bytes


class Execution:
    """One program being run. ``process`` is runc: read and write its pipes, then ``wait``."""

    def __init__(self, container: str, process: Process, pid_file: Path) -> None:
        self._container = container
        self._pid_file = pid_file
        self.process = process

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the program's exit status. Raises TimeoutExpired."""
        return self.process.wait(timeout=timeout_s)

    def await_start(self) -> bool:
        """Block until the program runs or never will; return whether it does.

        What comes on stderr before that is runc's, not the program's.
        """
        while not self._pid_file.exists():
            if self.process.returncode is not None:
                return self._pid_file.exists()
            time.sleep(_STEP_S)
        return True

    def check_started(self, stderr: bytes) -> None:
        """Raise ProgramNotFound or RuncFailed if the program was never started; call when ended."""
        if self.process.returncode == _NOT_STARTED and not self._pid_file.exists():
            raise failure(self._container, "exec", stderr.decode(errors="replace"))

    def signal(self, number: int) -> bool:
        """Send a signal to the program; returns False if there is none (not yet, or no more)."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            identity = ProcessIdentity.of(int(self._pid_file.read_text()))
            return identity is not None and send_signal(identity, number)
        return False

    def communicate(self, stdin: bytes = b"", timeout_s: float | None = None) -> Outcome:
        """Feed ``stdin``, collect everything; after ``timeout_s`` the program is killed."""
        try:
            stdout, stderr = self.process.communicate(stdin, timeout=timeout_s)
        except TimeoutExpired:
            self.kill()
            return Outcome(KILLED_STATUS, b"", b"")
        self.check_started(stderr)
        return Outcome(self.process.returncode, stdout, stderr)

    def kill(self) -> None:
        """End the program now, and runc with it. Idempotent.

        runc reaps the program. Were runc killed first, its orphan would be left to whoever is
        init on this host, and until that has reaped it, the whole container cannot end: the
        first process of a pid namespace outlives all others in it (pid_namespaces(7)).
        """
        deadline = time.monotonic() + _LINGER_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)
            with contextlib.suppress(TimeoutExpired):
                self.process.wait(timeout=_STEP_S)
        if self.process.poll() is None:  # a grandchild holds the pipes open: runc waits for those
            self.process.kill()
            self.process.wait()


@contextmanager
def execute(
    directory: ContainerDirectory,
    runc: Runc,
    process: Mapping[str, Any],
) -> Iterator[Execution]:
    """Start a program (``bundle.exec_process``) in the container; the end of the block kills it."""
    adopt(directory, runc)
    scratch = Path(tempfile.mkdtemp(prefix="exec-", dir=directory.path))
    try:
        spec, pid_file = scratch / "process.json", scratch / "pid"
        spec.touch(mode=0o600)
        spec.write_text(json.dumps(process))
        argv = runc.exec_argv(spec, pid_file)
        started = spawn(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        execution = Execution(directory.name, started, pid_file)
        try:
            yield execution
        finally:
            execution.kill()
            _close_pipes(started)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _close_pipes(process: Process) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
