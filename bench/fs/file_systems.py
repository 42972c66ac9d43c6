"""The file systems that are compared. Each mounts anew, with an empty cache, for each round.

A file system is a value; ``mounted(place)`` owns everything below ``place`` (mount, cache,
processes) until its block ends. A further one, such as a bucket that is mounted without
conversion, is another class with the same two methods. Needs root.

Settings of the peers: many parallel ranges of 4 MiB, large read-ahead, a cache on disk (so that a
second read is local, as ours is), names and attributes kept, no question twice about an object.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.values import FillerName
from bench.bench_agent import BenchAgent
from bench.fs.programs import Program
from bench.page_cache import read_file
from bench.s3_server import REGION, S3Server
from bench.store_access import StoreAccess
from hotstart.core.errors import HotstartError, Unavailable
from hotstart.core.log import get_logger
from hotstart.core.run import Process, TimeoutExpired, spawn
from hotstart.kernel.mounts import is_mounted, unmount_if_mounted

log = get_logger(__name__)

IMAGE = "bench/files:v1"
MOUNT_TIMEOUT_S = 30.0
END_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A mounted file system: where its files are, and how to bring all of them here."""

    root: Path
    place: Path
    complete: Callable[[], object]


class FileSystem(Protocol):
    """One way to have the files as a directory."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def link(self) -> str:
        """``loopback`` or ``link``, over which it reads; ``local``: it reads nothing."""

    def mounted(self, place: Path) -> AbstractContextManager[Standing]:
        """Mount, with everything that it keeps below ``place``."""


@dataclass(frozen=True, slots=True)
class Hotstart:
    """This product: an agent with an empty root, filling by fanotify or by FUSE."""

    name: str
    link: str
    store: StoreAccess
    filler: FillerName

    @contextmanager
    def mounted(self, place: Path) -> Iterator[Standing]:
        """Start an agent and mount the image as ``hotstart mount`` does."""
        target = place / "m"
        target.mkdir(parents=True)
        with BenchAgent(place / "a", self.store, filler=self.filler) as running:
            url = self.store.url
            running.client.mount(url, IMAGE, target)
            try:
                yield Standing(target, place, lambda: running.client.pull(url, IMAGE))
            finally:
                _umount(running, target)


@dataclass(frozen=True, slots=True)
class Ext4:
    """The same files, unpacked on the local disk."""

    tree: Path
    name: str = "ext4"
    link: str = "local"

    @contextmanager
    def mounted(self, place: Path) -> Iterator[Standing]:
        """Nothing is to be mounted."""
        place.mkdir(parents=True)
        yield Standing(self.tree, place, lambda: None)


@dataclass(frozen=True, slots=True)
class Rclone:
    """``rclone mount`` with the full cache."""

    link: str
    endpoint: str
    bucket: str
    program: Program
    name: str = "rclone"

    @contextmanager
    def mounted(self, place: Path) -> Iterator[Standing]:
        """Mount the bucket."""
        target = _directories(place)
        argv = [
            str(self.program.path), "mount", f":s3:{self.bucket}", str(target), "--config", "",
            "--s3-provider", "Other", "--s3-endpoint", self.endpoint, "--s3-region", REGION,
            "--s3-access-key-id", S3Server.access_key,
            "--s3-secret-access-key", S3Server.secret_key,
            "--s3-force-path-style", "--s3-no-head-object", "--read-only", "--no-checksum",
            "--use-server-modtime", "--vfs-cache-mode", "full", "--cache-dir", f"{place}/c",
            "--vfs-read-chunk-size", "4Mi", "--vfs-read-chunk-streams", "16",
            "--vfs-read-ahead", "64Mi", "--buffer-size", "4Mi", "--vfs-fast-fingerprint",
            "--max-read-ahead", "1Mi", "--dir-cache-time", "24h", "--attr-timeout", "1h",
            "--poll-interval", "0", "--file-perms", "0755", "--log-level", "ERROR",
        ]  # fmt: skip
        with _daemon(argv, place, target):
            yield Standing(target, place, lambda: _read_large(target))


@dataclass(frozen=True, slots=True)
class S3fs:
    """s3fs-fuse with a cache on disk."""

    link: str
    endpoint: str
    bucket: str
    program: Program
    name: str = "s3fs"

    @contextmanager
    def mounted(self, place: Path) -> Iterator[Standing]:
        """Mount the bucket."""
        target = _directories(place)
        secret = place / "passwd"
        secret.write_text(f"{S3Server.access_key}:{S3Server.secret_key}")
        secret.chmod(0o600)
        options = [
            f"url={self.endpoint}", "use_path_request_style", f"endpoint={REGION}", "sigv4",
            f"passwd_file={secret}", "ro", f"use_cache={place}/c", "parallel_count=16",
            "multipart_size=10", "multireq_max=100", "max_stat_cache_size=200000",
            "stat_cache_expire=86400", "enable_noobj_cache", "complement_stat", "umask=0022",
            "kernel_cache", "dbglevel=crit",
        ]  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        argv = [str(self.program.path), self.bucket, str(target), "-f", *words]
        with _daemon(argv, place, target):
            yield Standing(target, place, lambda: _read_large(target))


def _umount(running: BenchAgent, target: Path) -> None:
    """Undo a mount; whatever hinders that must not cost the samples that were taken."""
    try:
        running.client.umount(target)
    except HotstartError as err:
        log.warning("not_unmounted", target=target, reason=str(err))
        unmount_if_mounted(target, detach=True)


def _directories(place: Path) -> Path:
    (place / "c").mkdir(parents=True)
    target = place / "m"
    target.mkdir()
    return target


def _read_large(target: Path) -> None:
    for path in sorted(target.iterdir()):
        if path.is_file():
            read_file(path)


@contextmanager
def _daemon(argv: list[str], place: Path, target: Path) -> Iterator[None]:
    """Run a FUSE program in the foreground while the block lasts. Raises Unavailable."""
    with (place / "log").open("wb") as log:
        process = spawn(argv, stdout=log, stderr=log, new_session=True)
        try:
            _await_mount(process, target, place / "log")
            yield
        finally:
            unmount_if_mounted(target, detach=True)
            _end(process)
    shutil.rmtree(place / "c", ignore_errors=True)


def _await_mount(process: Process, target: Path, log: Path) -> None:
    deadline = time.monotonic() + MOUNT_TIMEOUT_S
    while not is_mounted(target):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "it said nothing"
            raise Unavailable(f"{target}: nothing was mounted: {last}")
        time.sleep(0.01)


def _end(process: Process) -> None:
    try:
        process.wait(END_TIMEOUT_S)
    except TimeoutExpired:
        process.kill()
        process.wait()
