"""What the peers run with: runc's own hardened defaults, as the product has them.

The base is what ``runc spec`` writes: masked and read-only paths, few capabilities, no new
privileges, private namespaces. Set apart from it: no terminal, a writable overlay, a network
namespace made ahead, /dev and /dev/shm bound from tmpfs directories of the host. The last makes
CRIU treat them as external mounts, so that it starts no tar for them: the peers are tuned too.

``DevDirectory`` owns those two mounts. Needs root.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hotstart.core.run import run
from hotstart.kernel import mounts

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
DEV_BYTES = 64 << 20
SHM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class PeerProgram:
    """What a peer runs: the unpacked tree and the program in it."""

    tree: Path
    argv: Sequence[str]
    env: Sequence[str]
    workdir: str = "/"


class DevDirectory:
    """A /dev and a /dev/shm for one container after another."""

    def __init__(self, directory: Path) -> None:
        self.dev = directory / "dev"
        self.shm = directory / "shm"
        self._stack = ExitStack()

    def __enter__(self) -> DevDirectory:
        try:
            self._make()
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

    def _make(self) -> None:
        for target, mode, size in ((self.dev, 0o755, DEV_BYTES), (self.shm, 0o1777, SHM_BYTES)):
            target.mkdir(parents=True)
            self._stack.callback(target.rmdir)
            mounts.tmpfs(target, mode=mode, size_bytes=size)
            self._stack.callback(mounts.unmount, target, detach=True)
        for name, (major, minor) in DEVICES.items():
            node = self.dev / name
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            node.chmod(0o666)
        for name, target_text in LINKS.items():
            (self.dev / name).symlink_to(target_text)
        for name in ("pts", "shm"):
            (self.dev / name).mkdir()


def make_config(
    program: PeerProgram, devices: DevDirectory, netns: Path, annotations: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of config.json."""
    with tempfile.TemporaryDirectory() as folder:
        run(["runc", "spec", "--bundle", folder])
        config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    config["process"] |= {
        "terminal": False,
        "args": list(program.argv),
        "env": list(program.env),
        "cwd": program.workdir,
    }
    config["root"] = {"path": "rootfs", "readonly": False}
    config["hostname"] = "peer"
    config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _bound("/dev", devices.dev, ["nosuid", "strictatime"]),
        _bound("/dev/shm", devices.shm, ["nosuid", "noexec", "nodev"]),  # noqa: S108  (theirs)
    ]
    config["linux"]["namespaces"] = [
        *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
        {"type": "network", "path": str(netns)},
    ]
    config["annotations"] = dict(annotations)
    return config


def _bound(destination: str, source: Path, options: Sequence[str]) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["bind", "rw", *options],
    }
