"""A node without an agent: keeper, fill worker, cache and mounts below one directory."""

import contextlib
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.core.run import run
from hotstart.kernel.keeper_client import KeeperClient
from hotstart.kernel.mounts import mounts_below, unmount
from hotstart.store.stack import open_store
from image_builder.build import build
from lazyfs.cache import Cache
from lazyfs.fill_client import FillClient
from lazyfs.image_mounts import ImageMounts
from lazyfs.keeper_guard import KeeperGuard, module_command
from lazyfs.served_devices import FANOTIFY
from lazyfs.spec import MountSpec
from tests.requires import found
from tests.waiting import wait_until as wait_until


def make_tree(root: Path, *, megabytes: int, seed: int = 7) -> Path:
    """Many files of random sizes, half of them compressible, and a large one."""
    root.mkdir(parents=True)
    source = random.Random(seed)
    left = megabytes << 20
    (root / "large").write_bytes(source.randbytes(left // 2))
    left -= left // 2
    for number in range(10_000):
        size = min(left, source.randrange(1, 400_000))
        if size <= 0:
            break
        content = source.randbytes(size) if number % 2 else (b"%d words " % number) * (size // 8)
        (root / f"d{number % 7}").mkdir(exist_ok=True)
        (root / f"d{number % 7}" / f"f{number}").write_bytes(content[:size])
        left -= size
    return root


class Image:
    """A built image and what it was built from."""

    def __init__(self, source: Path, store_dir: Path, name="image:1"):
        self.source = source
        self.store_dir = store_dir
        self.store = open_store(str(store_dir))
        self.manifest = build(str(source), self.store, reference=name).manifest
        self.spec = MountSpec.of(self.manifest, self.store.url)


class Node:
    """An agent's share of lazyfs. ``worker_options`` are for the fill worker's command line."""

    def __init__(
        self, root: Path, *worker_options: str, idle_limit: int = 0, filler: str = FANOTIFY
    ):
        self._filler = filler
        self.root = root
        self.run_dir = root / "run"
        self._options = worker_options
        self._idle_limit = idle_limit
        self.start()

    def start(self, *, code=""):
        command = replace(module_command("fill", "lazyfs.worker", self.run_dir), code=code)
        command.argv.extend(self._options)
        self.guard = KeeperGuard(self.run_dir, [command])
        self.guard.start()
        self.cache = Cache(self.root)
        self.worker = FillClient(self.run_dir / "fill.sock")
        self.mounts = ImageMounts(
            self.root,
            self.cache,
            self.guard,
            self.worker,
            filler=self._filler,
            idle_limit=self._idle_limit,
        )
        self.worker.ping()

    def abandon(self):
        """What is left of an agent that was killed: nothing but the keeper and its worker."""
        self.guard.close()

    def worker_pid(self):
        return self.guard.status()["workers"]["fill"]["pid"]

    def kill_worker(self):
        """Kill it; returns at once or False if none runs at the moment."""
        pid = self.worker_pid()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def kill_keeper(self):
        with KeeperClient(self.run_dir / "keeper.sock") as client:
            os.kill(client.status()["pid"], signal.SIGKILL)

    def close(self):
        try:
            for mount in mounts_below(self.root):
                unmount(mount.target, detach=True)
        finally:
            self.guard.shutdown()


def needs_fanotify(directory: Path):
    """Skip, with the probe's reason, where the kernel does not ask for absent data."""
    feature = found("fanotify_pre_content", directory)
    if not feature.present:
        pytest.skip(f"{feature.name}: {feature.reason}")


@contextlib.contextmanager
def running_node(root: Path, *worker_options: str, idle_limit: int = 0, filler: str = FANOTIFY):
    if filler == FANOTIFY:
        needs_fanotify(root.parent)
    node = Node(root, *worker_options, idle_limit=idle_limit, filler=filler)
    try:
        yield node
    finally:
        node.close()


def tree_digest(root) -> str:
    """One digest of all names and bytes, by another process: this one must not read the mount."""
    script = 'cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum'
    return run(["sh", "-c", script, "sh", str(root)], timeout_s=120).text.split()[0]


def read_status(path) -> int:
    """Exit status of a process that reads a whole file."""
    return run(["cat", str(path)], check=False, timeout_s=120).status
