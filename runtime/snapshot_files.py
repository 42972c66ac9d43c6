"""The files of a snapshot, staged on disk before they become an image.

    STAGING/dump/    what CRIU wrote            STAGING/upper/   the writable layer
    STAGING/shm/     content of /dev/shm        STAGING/hook     CRIU runs it while all stands still

The hook copies ``upper`` and ``shm`` at the moment of the freeze (CRIU's action "post-dump": after
the last page is written, before anybody goes on), so memory and files belong together, whether the
container is stopped or left running. A copy keeps everything: owners, times, hard links, sparse
files, extended attributes (overlayfs' own ``trusted.*`` included), whiteouts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.run import run
from runtime.container_directory import ContainerDirectory
from snapshotter.criu import CriuOptions

_OPAQUE = "trusted.overlay.opaque"
DUMP, UPPER, SHM = "dump", "upper", "shm"

_HOOK = """#!/bin/sh
# Written by Hotstart: copies the writable layer while the container is frozen.
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
set -e
cp -a --reflink=auto -- {upper}/. {staged_upper}
cp -a --sparse=always -- {shm}/. {staged_shm}
: > {done}
"""


@dataclass(frozen=True, slots=True)
class SnapshotFiles:
    """The staged tree at ``path``."""

    path: Path

    @property
    def dump(self) -> Path:
        """CRIU's images."""
        return self.path / DUMP

    @property
    def upper(self) -> Path:
        """The copy of the writable layer."""
        return self.path / UPPER

    @property
    def shm(self) -> Path:
        """The copy of /dev/shm."""
        return self.path / SHM

    @property
    def hook(self) -> Path:
        """The program that CRIU runs; outside of what becomes the image."""
        return self.path.with_name(f"{self.path.name}.hook")

    @property
    def copied(self) -> bool:
        """True once the hook has run to its end."""
        return self._done.exists()

    @property
    def _done(self) -> Path:
        return self.path.with_name(f"{self.path.name}.copied")

    def write_hook(self, directory: ContainerDirectory) -> None:
        """Write the hook for one container."""
        names = {
            "upper": directory.upper,
            "staged_upper": self.upper,
            "shm": directory.shm,
            "staged_shm": self.shm,
            "done": self._done,
        }
        self.hook.write_text(_HOOK.format(**{k: shlex.quote(str(v)) for k, v in names.items()}))
        self.hook.chmod(0o700)

    def remove(self) -> None:
        """Delete everything. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        for file in (self.hook, self._done):
            file.unlink(missing_ok=True)


def remember_lower_upper(directory: ContainerDirectory, upper: Path) -> None:
    """Note that the container's root lies on an earlier snapshot's writable layer."""
    _lower_upper(directory).symlink_to(upper)


def merge_lower_upper(directory: ContainerDirectory, files: SnapshotFiles) -> None:
    """Put the staged writable layer on top of the earlier snapshot's, if there is one.

    A snapshot has one writable layer above its image: that of a restored container is only what
    changed since. Whiteouts, opaque directories and changes of kind replace what is below them.
    """
    lower = _lower_upper(directory)
    if not lower.is_symlink():
        return
    merged = files.path / "merged"
    run(["cp", "-a", "--", f"{lower.resolve(strict=True)}", f"{merged}"])
    _clear_replaced(files.upper, merged)
    run(["cp", "-a", "--remove-destination", "--", f"{files.upper}/.", f"{merged}"])
    shutil.rmtree(files.upper)
    merged.rename(files.upper)


def _lower_upper(directory: ContainerDirectory) -> Path:
    return directory.path / "lower-upper"


def _clear_replaced(upper: Path, below: Path) -> None:
    """Remove from ``below`` what an entry of ``upper`` does not merge with."""
    for entry in os.scandir(upper):
        under = below / entry.name
        if not os.path.lexists(under):
            continue
        merges = entry.is_dir(follow_symlinks=False) and stat.S_ISDIR(under.lstat().st_mode)
        if merges and not _is_opaque(entry.path):
            _clear_replaced(Path(entry.path), under)
        elif stat.S_ISDIR(under.lstat().st_mode):
            shutil.rmtree(under)
        else:
            under.unlink()


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


@contextmanager
def staged_files(scratch: Path) -> Iterator[SnapshotFiles]:
    """Make an empty staging directory below ``scratch``; it is gone at the end of the block."""
    scratch.mkdir(parents=True, exist_ok=True)
    files = SnapshotFiles(Path(tempfile.mkdtemp(prefix="snapshot-", dir=scratch)))
    try:
        for directory in (files.dump, files.upper, files.shm):
            directory.mkdir(mode=0o755)
        yield files
    finally:
        files.remove()


def criu_config(directory: ContainerDirectory) -> Path:
    """Return the configuration file that runc hands to CRIU for this container.

    It is named in the bundle (``write_bundle``), so it must exist before the container does.
    """
    return directory.path / "criu.conf"


def write_criu_config(directory: ContainerDirectory, hook: Path | None = None) -> Path:
    """Write the container's CRIU configuration, for a dump with the hook; return its path."""
    return CriuOptions(action_script=str(hook) if hook else "").write(criu_config(directory))
