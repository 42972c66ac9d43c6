"""runc, one method per verb. Each container has a runc state directory of its own.

Calls block until runc ends. What runc says becomes one sentence in a ``RuncFailed``. Creating and
restoring go through conmon (conmon.py), which must be the parent of the container's process;
further programs in a container go through execution.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import HotstartError, NotFound, Unsupported, UserError
from hotstart.core.run import CommandFailed, TimeoutExpired, run, spawn
from runtime.container_directory import ContainerDirectory

_TIMEOUT_S = 60.0
_CHECKPOINT_TIMEOUT_S = 600.0
_MESSAGE = re.compile(r'\bmsg="((?:[^"\\]|\\.)*)"')
_NO_PROGRAM = re.compile(
    r'exec: "+(?P<program>.*?)"+: (?:stat .*: )?'
    r"(?P<why>no such file or directory|executable file not found in \$PATH|permission denied"
    r"|is a directory)"
)
_NO_WORKDIR = re.compile(r'chdir to cwd \("(?P<path>.*?)"\) .*?: (?P<why>[a-z ]+)$')


class RuncFailed(HotstartError):
    """runc could not do what it was told; ``reason`` is its own last message."""

    def __init__(self, container: str, verb: str, reason: str) -> None:
        super().__init__(f"{container}: runc {verb}: {reason}")
        self.container = container
        self.verb = verb
        self.reason = reason


class ProgramNotFound(UserError):
    """The program to run is not in the container, or isn't one."""


class WorkdirUnusable(UserError):
    """A program cannot be started in the directory that was asked for."""


class NotRunning(UserError):
    """The container has ended or was never started."""

    def __init__(self, container: str) -> None:
        super().__init__(f"{container} is not running")
        self.container = container


@dataclass(frozen=True, slots=True)
class Programs:
    """Absolute paths of the programs; found once, so that PATH can't change under a container."""

    runc: str
    conmon: str

    @classmethod
    def find(cls) -> Programs:
        """Look on PATH. Raises Unsupported, naming what is missing."""
        return cls(_find("runc"), _find("conmon"))


def _find(name: str) -> str:
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise Unsupported(f"{name} is not installed; run make setup")
    return found


@dataclass(frozen=True, slots=True)
class RuncState:
    """What runc knows of a container: ``created``, ``running``, ``paused`` or ``stopped``."""

    status: str
    pid: int


def reason_of(stderr: str) -> str:
    """Return the last message in what runc wrote, unescaped, without time and level."""
    messages = _MESSAGE.findall(stderr)
    if messages:
        with contextlib.suppress(ValueError):
            return str(json.loads(f'"{messages[-1]}"'))
        return str(messages[-1])
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else "it gave no reason"


def failure(container: str, verb: str, stderr: str) -> HotstartError:
    """Turn runc's words into an error; a missing program or directory is the caller's mistake."""
    reason = reason_of(stderr)
    workdir = _NO_WORKDIR.search(reason)
    if workdir is not None:
        return WorkdirUnusable(
            f"{container}: working directory {workdir['path']!r}: {workdir['why']}",
            "create it, or choose another --workdir",
        )
    match = _NO_PROGRAM.search(reason)
    if match is not None:
        why = "cannot be executed" if "permission" in match["why"] else "does not exist"
        if "directory" in match["why"] and "is a" in match["why"]:
            why = "is a directory"
        return ProgramNotFound(
            f"{container}: the program {match['program']!r} {why} in the container",
            "check the command and the image's PATH",
        )
    return RuncFailed(container, verb, reason)


class Runc:
    """The runc of one container. Holds no state but paths; any number may exist."""

    def __init__(
        self,
        programs: Programs,
        directory: ContainerDirectory,
        *,
        env: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        self._programs = programs
        self._directory = directory
        self._name = directory.name
        self._root = root or directory.runc_root
        self._base = [programs.runc, "--root", str(self._root)]
        self._env = dict(env) if env is not None else None

    @property
    def state_directory(self) -> Path:
        """What runc keeps of the container."""
        return self._root / self._name

    def knows_it(self) -> bool:
        """Whether runc has made the container, or has been told of it (adoption.py)."""
        return (self.state_directory / "state.json").exists()

    def elsewhere(self, root: Path) -> Runc:
        """Return the same with another state directory."""
        return Runc(self._programs, self._directory, env=self._env, root=root)

    def create(self, bundle: Path) -> None:
        """Create a container that is never started and whose streams lead nowhere."""
        argv = [*self._base, "create", "--bundle", str(bundle), self._name]
        with tempfile.TemporaryFile() as words:
            process = spawn(argv, stdout=words, stderr=words, env=self._env)
            try:
                status = process.wait(timeout=_TIMEOUT_S)
            except TimeoutExpired as err:
                raise RuncFailed(self._name, "create", "it did not end") from err
            finally:
                process.kill()
                process.wait()
            if status != 0:
                words.seek(0)
                raise failure(self._name, "create", words.read().decode(errors="replace"))

    def state(self) -> RuncState:
        """Return the container's state. Raises NotFound if runc has none."""
        try:
            done = self._call("state", self._name)
        except RuncFailed as err:
            if "does not exist" in err.reason:
                raise NotFound(f"{self._name}: runc knows no such container") from err
            raise
        values = json.loads(done)
        return RuncState(str(values["status"]), int(values["pid"]))

    def start(self) -> None:
        """Let the created container run its program. Raises ProgramNotFound or RuncFailed."""
        self._call("start", self._name)

    def delete(self, *, force: bool = False) -> None:
        """Remove runc's state and the container's cgroup; with ``force`` kill first. Idempotent."""
        if not self.state_directory.exists():
            return
        options = ["--force"] if force else []
        try:
            self._call("delete", *options, self._name)
        except RuncFailed as err:
            if "does not exist" not in err.reason:
                raise

    def pause(self) -> None:
        """Freeze every process of the container."""
        self._call("pause", self._name)

    def resume(self) -> None:
        """Thaw what ``pause`` froze."""
        self._call("resume", self._name)

    def processes(self) -> list[int]:
        """Return the pids of the container's processes, as the host numbers them."""
        return [int(pid) for pid in json.loads(self._call("ps", "--format", "json", self._name))]

    def checkpoint_argv(self, image_path: Path, work_path: Path, *options: str) -> list[str]:
        """Return the command that dumps the container into ``image_path``."""
        paths = ["--image-path", str(image_path), "--work-path", str(work_path)]
        return [*self._base, "checkpoint", *paths, *options, self._name]

    def checkpoint(self, image_path: Path, work_path: Path, *options: str) -> None:
        """Dump the container; blocks while it stands still. Raises RuncFailed.

        CRIU's log lies in ``work_path``/dump.log. The container goes on if the dump fails.
        """
        argv = self.checkpoint_argv(image_path, work_path, *options)
        self._run("checkpoint", argv, timeout_s=_CHECKPOINT_TIMEOUT_S)

    def exec_argv(self, process_file: Path, pid_file: Path) -> list[str]:
        """Return the command that runs a further program (see execution.py)."""
        files = ["--process", str(process_file), "--pid-file", str(pid_file)]
        return [*self._base, "exec", *files, self._name]

    def _call(self, verb: str, *words: str) -> str:
        return self._run(verb, [*self._base, verb, *words], timeout_s=_TIMEOUT_S)

    def _run(self, verb: str, argv: Sequence[str], *, timeout_s: float) -> str:
        try:
            return run(argv, timeout_s=timeout_s, env=self._env).text
        except CommandFailed as err:
            raise failure(self._name, verb, err.stderr) from err
