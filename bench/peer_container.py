"""One container of a peer: plain runc on an overlay of an unpacked tree, apart from the agent.

``PeerContainer`` owns a directory with the bundle, the writable layer, runc's state and the
container itself, and removes all of it when its context ends, whatever happened inside. The
overlay is mounted and /dev made before the clock starts: peers get these for nothing.

Standard streams are three pipes, as the product has them; their last lines explain a failure.
Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from hotstart.core.errors import HotstartError
from hotstart.core.run import run, spawn
from hotstart.kernel import mounts

LOG_BYTES = 4096
DELETE_TIMEOUT_S = 30.0


class PeerFailed(HotstartError):
    """runc ended with an error; ``log`` holds what it and the container wrote last."""

    def __init__(self, action: str, status: int, log: str) -> None:
        last = log.strip().splitlines()[-1] if log.strip() else "no message"
        super().__init__(f"runc {action}: exit status {status}: {last}")
        self.log = log


class PeerContainer:
    """A bundle with its overlay, ready for ``run``, ``checkpoint`` or ``restore``."""

    def __init__(
        self,
        directory: Path,
        lower: Path,
        config: Mapping[str, Any],
        *,
        name: str,
        env: Mapping[str, str],
        upper: Path | None = None,
    ) -> None:
        self.directory = directory
        self.name = name
        self._lower = lower
        self._first_upper = upper
        self._config = config
        self._env = env
        self._stack = ExitStack()
        self._read_ends: list[int] = []

    def __enter__(self) -> PeerContainer:
        try:
            self._prepare()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def upper(self) -> Path:
        """The writable layer's directory."""
        return self.directory / "upper"

    def run(self) -> float:
        """Create and start the container; return the milliseconds until runc came back."""
        return self._start("run", [])

    def restore(self, image: Path) -> float:
        """Restore the container from dump files; return the milliseconds until runc came back."""
        work = self.directory / "restore-work"
        work.mkdir()
        return self._start("restore", ["--image-path", str(image), "--work-path", str(work)])

    def checkpoint(self, image: Path) -> None:
        """Freeze the container into dump files at ``image`` and end it."""
        work = self.directory / "checkpoint-work"
        work.mkdir()
        image.mkdir(parents=True)
        arguments = ["checkpoint", "--image-path", str(image), "--work-path", str(work)]
        done = run(self._runc([*arguments, self.name]), env=self._env, check=False)
        if done.status != 0:
            log = done.stderr.decode(errors="replace") + _tail(work / "dump.log")
            raise PeerFailed("checkpoint", done.status, log)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, self.directory)
        for part in ("rootfs", "work", "runc"):
            (self.directory / part).mkdir()
        if self._first_upper is None:
            self.upper.mkdir()
        else:
            run(["cp", "--archive", str(self._first_upper), str(self.upper)])
        rootfs = self.directory / "rootfs"
        mounts.overlay([self._lower], self.upper, self.directory / "work", rootfs)
        self._stack.callback(mounts.unmount, rootfs, detach=True)
        (self.directory / "config.json").write_text(json.dumps(self._config))
        self._stack.callback(self._delete)

    def _runc(self, arguments: Sequence[str]) -> list[str]:
        return ["runc", "--root", str(self.directory / "runc"), *arguments]

    def _start(self, verb: str, arguments: Sequence[str]) -> float:
        argv = self._runc([verb, "--detach", "--bundle", str(self.directory), *arguments])
        with ExitStack() as ends:
            pipes = [os.pipe() for _ in range(3)]
            # Standard input stays open for the container's life; of its output, the container
            # alone holds the write ends.
            for held in (pipes[0][1], pipes[1][0], pipes[2][0]):
                self._stack.callback(os.close, held)
            for passed in (pipes[0][0], pipes[1][1], pipes[2][1]):
                ends.callback(os.close, passed)
            self._read_ends = [pipes[1][0], pipes[2][0]]
            started_s = time.monotonic()
            with (
                open(pipes[0][0], "rb", closefd=False) as stdin,
                open(pipes[1][1], "wb", closefd=False) as stdout,
                open(pipes[2][1], "wb", closefd=False) as stderr,
            ):
                process = spawn(
                    [*argv, self.name], stdin=stdin, stdout=stdout, stderr=stderr, env=self._env
                )
            status = process.wait()
            elapsed_ms = (time.monotonic() - started_s) * 1e3
        if status != 0:
            raise PeerFailed(verb, status, self.log() + _tail(self._restore_log()))
        return elapsed_ms

    def _restore_log(self) -> Path:
        return self.directory / "restore-work" / "restore.log"

    def log(self) -> str:
        """Return what is waiting in the pipes of standard output and error."""
        text = ""
        for end in self._read_ends:
            os.set_blocking(end, False)
            with contextlib.suppress(BlockingIOError):
                text += os.read(end, LOG_BYTES).decode(errors="replace")
        return text

    def _delete(self) -> None:
        run(
            self._runc(["delete", "--force", self.name]),
            env=self._env,
            check=False,
            timeout_s=DELETE_TIMEOUT_S,
        )


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    return path.read_bytes()[-LOG_BYTES:].decode(errors="replace")
