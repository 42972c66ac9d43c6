"""conmon: the small process that stands beside each container and outlives the agent.

It starts its runtime (runc, or what stands for it: direct_restore.py), is the parent of the
container's first process, copies its stdout and stderr (a pipe each) into a log, and leaves the
exit status in a file. It tells us the pid, or the runtime's error, as one JSON line through the
pipe named by ``_OCI_SYNCPIPE``. The container's stdin is a pipe too, since CRIU cannot dump a
descriptor of the host's /dev/null; conmon closes it, so that readers see the end, once its one
attached client goes away: us, at once.

conmon replaces the log by an empty one when it would grow past ``log_max_bytes`` (its old
content is then only reachable through a hard link: logs.py). The first line of conmon's own words
about a failure is in ``monitor_log``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.run import Process, TimeoutExpired, spawn
from hotstart.kernel.pidfd import ProcessIdentity, remember
from runtime.container_directory import ContainerDirectory
from runtime.runc import Programs, failure

LOG_MAX_BYTES = 16 << 20
_START_TIMEOUT_S = 120.0
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MonitorFailed(HotstartError):
    """conmon itself did not do its work; what it said is in the message."""


class Conmon:
    """Starts containers under a monitor. ``env`` is added to conmon's (and so runc's) own."""

    def __init__(
        self,
        programs: Programs,
        directory: ContainerDirectory,
        *,
        log_max_bytes: int = LOG_MAX_BYTES,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._programs = programs
        self._directory = directory
        self._log_max_bytes = log_max_bytes
        self._env = {"PATH": _SEARCH_PATH, **(env or {})}

    def create(self) -> int:
        """Let runc create the container (it waits for ``Runc.start``); return its pid.

        Raises ProgramNotFound, RuncFailed or MonitorFailed; nothing runs then.
        """
        return self._launch("create", self.argv())

    def restore(self, image_path: Path, work_path: Path, options: Sequence[str] = ()) -> int:
        """Let runc restore a dump; return the pid of the running process.

        ``options`` go to ``runc restore``, one word each, for example ``--lazy-pages``.
        """
        words = ["--work-path", str(work_path), *options]
        extra = [word for option in words for word in ("--runtime-opt", option)]
        return self._launch("restore", [*self.argv(), "--restore", str(image_path), *extra])

    def argv(self) -> list[str]:
        """Return conmon's command line, the same for create and restore."""
        place, name = self._directory, self._directory.name
        # fmt: off
        return [
            self._programs.conmon, "--api-version", "1",
            "--cid", name, "--cuuid", name, "--name", name,
            "--runtime", self._programs.runc, "--bundle", str(place.bundle),
            "--exit-dir", str(place.exits), "--log-path", f"k8s-file:{place.log}",
            "--log-size-max", str(self._log_max_bytes), "--no-sync-log", "--full-attach", "--stdin",
            "--conmon-pidfile", str(place.monitor_pid_file),
            "--container-pidfile", str(place.pid_file),
            "--runtime-arg", "--root", "--runtime-arg", str(place.runc_root),
        ]
        # fmt: on

    def _launch(self, verb: str, argv: Sequence[str]) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with open(self._directory.monitor_log, "ab") as words:
                process = spawn(
                    argv,
                    stdout=words,
                    stderr=words,
                    cwd=self._directory.path,  # conmon writes a file "oom" where it stands
                    env={**self._env, "_OCI_SYNCPIPE": str(writing)},
                    pass_fds=(writing,),
                )
            os.close(writing)
            writing = -1
            answer = _read_line(reading)
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        self._reap(process)
        pid = self._pid_of(verb, answer)
        self._remember(pid)
        close_stdin(self._directory)
        return pid

    def _reap(self, process: Process) -> None:
        """conmon forks: what we started ends at once, the monitor lives on."""
        try:
            process.wait(timeout=_START_TIMEOUT_S)
        except TimeoutExpired as err:
            raise MonitorFailed(
                f"{self._directory.name}: conmon did not leave for the background within "
                f"{_START_TIMEOUT_S:g} s"
            ) from err
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _remember(self, pid: int) -> None:
        """Write down who monitor and container are, while their numbers are theirs.

        The container's file comes last: it says that the container has been started.
        """
        place = self._directory
        monitor = int(place.monitor_pid_file.read_text())
        remember(ProcessIdentity.of(monitor), place.monitor_process_file)
        remember(ProcessIdentity.of(pid), place.process_file)

    def _pid_of(self, verb: str, answer: bytes) -> int:
        name = self._directory.name
        try:
            values = json.loads(answer)
            pid = int(values["data"])
        except (ValueError, KeyError, TypeError) as err:
            words = self._directory.monitor_log.read_text(errors="replace").strip()
            last = words.splitlines()[-1] if words else "it said nothing"
            raise MonitorFailed(f"{name}: conmon gave no answer to {verb}: {last}") from err
        if pid <= 0:
            raise failure(name, verb, str(values.get("message", "")))
        return pid


def _read_line(fd: int) -> bytes:
    """Read up to a newline, the end, or the time limit."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            break
        piece = os.read(fd, 65536)
        if not piece:
            break
        line += piece
    return line


def close_stdin(directory: ContainerDirectory) -> None:
    """Attach to the monitor and leave again: the container's stdin ends.

    A container that has ended already needs none of it.
    """
    # A socket's path is short (108 bytes, unix(7)); this one is reached through a descriptor.
    bundle = os.open(directory.bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(_START_TIMEOUT_S)
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                client.connect(f"/proc/self/fd/{bundle}/attach")
    finally:
        os.close(bundle)
