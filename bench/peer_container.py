"""One container of a peer: plain runc on an overlay of an unpacked tree, apart from the agent.

``PeerContainer`` owns a directory with the bundle, the writable layer, runc's state and the
container itself, and removes all of it when its context ends, whatever happened inside. Bundle,
overlay and /dev are made by the product's own code (same hardened configuration, same bind
mounts) and before the clock starts: peers get these for nothing.

Standard streams are three pipes, as the product has them; their last lines explain a failure.
Needs root.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hotstart.core.errors import HotstartError
from hotstart.core.run import CommandTimedOut, TimeoutExpired, run, spawn
from runtime.bundle import write_bundle
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.dev_shm import mount_dev_shm
from runtime.rootfs import mount_rootfs, write_host_files

LOG_BYTES = 4096
CGROUP = f"/hotstart-bench-{os.getpid()}"
"""Parent of the peers' control groups; one for each run."""
RUNC_TIMEOUT_S = 60.0


class PeerFailed(HotstartError):
    """A peer did not do what was asked; ``log`` holds what it and the container wrote last."""

    def __init__(self, action: str, reason: str, log: str) -> None:
        last = " | ".join(log.strip().splitlines()[-3:]) or "no message"
        super().__init__(f"{action}: {reason}: {last}")
        self.log = log


@dataclass(frozen=True, slots=True)
class PeerProgram:
    """What a peer runs: the unpacked tree, and the program in it."""

    tree: Path
    argv: tuple[str, ...]
    env: tuple[str, ...] = ()

    def image_config(self) -> dict[str, object]:
        """Return the image configuration that says the same."""
        return {"config": {"Cmd": list(self.argv), "Env": list(self.env)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPlace:
    """What a container finds on the host: its network, CRIU's options, runc's environment."""

    netns: Path
    criu_config: Path
    env: Mapping[str, str]


class PeerContainer:
    """A bundle with its overlay, ready for ``run``, ``checkpoint`` or ``restore``."""

    def __init__(
        self, directory: Path, program: PeerProgram, place: PeerPlace, upper: Path | None = None
    ) -> None:
        """``upper``: a writable layer to begin with, copied; None: an empty one."""
        self.directory = ContainerDirectory(directory)
        self._program = program
        self.place = place
        self._first_upper = upper
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

    def run(self) -> float:
        """Create and start the container; return the milliseconds until runc came back."""
        return self._start("run", ["--detach"])

    def run_to_end(self) -> float:
        """Run the container until its program ends well; return the milliseconds it took."""
        return self._start("run", [])

    def restore(self, image: Path) -> float:
        """Restore the container from dump files; return the milliseconds until runc came back."""
        work = ["--work-path", str(self.directory.criu)]
        return self._start("restore", ["--detach", "--image-path", str(image), *work])

    def checkpoint(self, image: Path) -> None:
        """Freeze the container into dump files at ``image`` and end it."""
        image.mkdir(parents=True)
        paths = ["--image-path", str(image), "--work-path", str(self.directory.criu)]
        argv = self._runc(["checkpoint", *paths, self.directory.name])
        done = run(argv, env=self.place.env, check=False, timeout_s=RUNC_TIMEOUT_S)
        if done.status != 0:
            log = done.stderr.decode(errors="replace") + _tail(self.directory.criu / "dump.log")
            raise PeerFailed("runc checkpoint", f"exit status {done.status}", log)

    def log(self) -> str:
        """Return what is waiting in the pipes of standard output and error."""
        text = ""
        for end in self._read_ends:
            os.set_blocking(end, False)
            with contextlib.suppress(BlockingIOError):
                text += os.read(end, LOG_BYTES).decode(errors="replace")
        return text

    def _prepare(self) -> None:
        directory = self.directory
        self._stack.callback(directory.remove)
        directory.create()
        if self._first_upper is not None:
            directory.upper.rmdir()
            run(["cp", "--archive", str(self._first_upper), str(directory.upper)])
        mount_rootfs([self._program.tree], directory.upper, directory.work, directory.rootfs)
        if self._first_upper is None:
            write_host_files(directory.rootfs, directory.name, "")
        mount_dev_shm(directory.dev, directory.shm)
        write_bundle(
            directory,
            ContainerSpec(name=directory.name),
            self._program.image_config(),
            netns=self.place.netns,
            cgroup=f"{CGROUP}/{directory.name}",
            criu_config=self.place.criu_config,
        )
        self._stack.callback(self._delete)

    def _runc(self, arguments: Sequence[str]) -> list[str]:
        return ["runc", "--root", str(self.directory.runc_root), *arguments]

    def _start(self, verb: str, arguments: Sequence[str]) -> float:
        bundle = str(self.directory.bundle)
        argv = self._runc([verb, "--bundle", bundle, *arguments, self.directory.name])
        with ExitStack() as passed:
            stdin, stdout, stderr = self._pipes(passed)
            started_s = time.monotonic()
            process = spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=self.place.env)
            try:
                status = process.wait(RUNC_TIMEOUT_S)
            except TimeoutExpired as err:
                process.kill()
                process.wait()
                raise CommandTimedOut(argv, RUNC_TIMEOUT_S) from err
            elapsed_ms = (time.monotonic() - started_s) * 1e3
        if status != 0:
            raise PeerFailed(f"runc {verb}", f"exit status {status}", self.log())
        return elapsed_ms

    def _pipes(self, passed: ExitStack) -> tuple[int, int, int]:
        """Make the three pipes; the passed ends close with ``passed``, ours with the container.

        Standard input stays open for the container's life; of its output, the container alone
        holds the write ends.
        """
        inner, held = os.pipe()
        out_end, stdout = os.pipe()
        err_end, stderr = os.pipe()
        for fd in (held, out_end, err_end):
            self._stack.callback(os.close, fd)
        for fd in (inner, stdout, stderr):
            passed.callback(os.close, fd)
        self._read_ends = [out_end, err_end]
        return inner, stdout, stderr

    def _delete(self) -> None:
        argv = self._runc(["delete", "--force", self.directory.name])
        run(argv, env=self.place.env, check=False, timeout_s=RUNC_TIMEOUT_S)


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    return path.read_bytes()[-LOG_BYTES:].decode(errors="replace")
