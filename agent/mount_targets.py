"""The mounts that a person asked for: an image's own mount, bound read-only at a directory.

Each target holds one use of the image's mount (lazyfs mounts an image once and counts its users)
and one row of the database, so that an agent that was restarted finds it again. What is mounted
now is read from the kernel: a target that somebody unmounted by hand is forgotten at start-up.

Order of a mount: image, row, bind; each undone if a later step fails. A crash between row and
bind leaves a row without a mount, which the next start drops.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from contextlib import ExitStack
from pathlib import Path

from agent.state import MountRow, State
from hotstart.core.errors import Conflict, HotstartError, NotFound, UserError
from hotstart.core.log import get_logger
from hotstart.kernel.mounts import bind, is_mounted, unmount
from lazyfs.spec import MountSpec
from runtime.cold_start import LOCAL_READ_AHEAD_KIB
from runtime.image_access import Images, Mounted
from runtime.weights import READ_AHEAD_KIB as WEIGHTS_READ_AHEAD_KIB

log = get_logger(__name__)

DEFAULT_READ_AHEAD_KIB = 1024
"""Of an image that isn't all here: each such read raises one event, and with 1 MiB a time a reader
spends a fifth of what it spends with 128 KiB. Small reads ask for less by themselves; a touch of
mapped memory asks for all of it (``--read-ahead`` sets less). A local image gets what fills the
page cache with large folios."""


class TargetUnfit(UserError):
    """A directory cannot be mounted on."""


class MountTargets:
    """Targets of one root. Calls may come from several threads; one at a time does its work."""

    def __init__(self, state: State, images: Images) -> None:
        self._state = state
        self._images = images
        self._lock = threading.Lock()
        self._mounted: dict[str, Mounted] = {}

    def adopt(self, there: Container[str]) -> None:
        """Take up again what an earlier agent mounted; forget what is gone.

        ``there`` are the images (manifests in hex) that were found mounted and served; a target of
        another one would read zeros, so it is detached.
        """
        for row in self._state.mounts():
            spec = MountSpec.from_json(row.spec)
            mounted = is_mounted(Path(row.target))
            if not mounted or spec.manifest not in there:
                log.warning("mount_gone", target=row.target, was_mounted=mounted)
                if mounted:
                    unmount(Path(row.target), detach=True)
                self._state.drop_mount(row.target)
                continue
            try:
                self._mounted[row.target] = self._mount(spec, row.read_ahead_kib)
            except HotstartError as err:
                log.warning("mount_not_adopted", target=row.target, reason=err)

    def mount(self, row: MountRow) -> None:
        """Mount at ``row.target``, an existing empty directory.

        Raises NotFound, TargetUnfit, Conflict when something is mounted there, and what mounting
        raises.
        """
        target = Path(row.target)
        with self._lock, ExitStack() as undo:
            _check_target(target)
            spec = MountSpec.from_json(row.spec)
            mounted = self._mount(spec, row.read_ahead_kib)
            undo.callback(mounted.release)
            self._state.put_mount(row)
            undo.callback(self._state.drop_mount, row.target)
            bind(mounted.path, target, read_only=True)
            self._mounted[row.target] = mounted
            undo.pop_all()

    def _mount(self, spec: MountSpec, asked_kib: int) -> Mounted:
        local = self._images.is_local(spec)
        default_kib = LOCAL_READ_AHEAD_KIB if local else DEFAULT_READ_AHEAD_KIB
        if spec.is_weights:
            default_kib = WEIGHTS_READ_AHEAD_KIB
        return self._images.mount(spec, read_ahead_kib=asked_kib or default_kib)

    def umount(self, target: str) -> None:
        """Undo a mount. Raises NotFound, or Conflict while a program uses it."""
        with self._lock:
            if target not in {row.target for row in self._state.mounts()}:
                raise NotFound(
                    f"nothing of this agent is mounted at {target}", "see hotstart mounts"
                )
            self._umount(target)

    def umount_all(self) -> None:
        """Undo every mount. Raises Conflict for one in use: detached it would read zeros."""
        with self._lock:
            for row in self._state.mounts():
                self._umount(row.target)

    def _umount(self, target: str) -> None:
        if is_mounted(Path(target)):
            try:
                unmount(Path(target))
            except OSError as err:
                raise Conflict(
                    f"{target} is in use", "end the programs that use it, then try again"
                ) from err
        self._state.drop_mount(target)
        mounted = self._mounted.pop(target, None)
        if mounted is not None:
            mounted.release()

    def rows(self) -> list[MountRow]:
        """Return every mount, by target."""
        return self._state.mounts()


def _check_target(target: Path) -> None:
    if not target.is_absolute():
        raise TargetUnfit(f"{target}: not an absolute path")
    if not target.is_dir():
        if target.exists():
            raise TargetUnfit(f"{target}: not a directory", "choose an empty directory")
        raise NotFound(f"{target}: there is no such directory", "create it first")
    if is_mounted(target):
        raise Conflict(f"{target}: something is mounted there", "choose another directory")
    if any(target.iterdir()):
        raise TargetUnfit(f"{target}: the directory is not empty", "choose an empty one")
