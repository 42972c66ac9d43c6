"""Which filler an agent uses: fanotify where this host has all that it needs, else FUSE.

Mounts that an earlier agent left decide first: a device is served one way as long as it is mounted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.values import FillerName
from hotstart.core.errors import Conflict, Unsupported
from hotstart.kernel.features import Feature, probe_one
from lazyfs.device_handles import KIND, DeviceMeta
from lazyfs.keeper_guard import KeeperGuard
from lazyfs.served_devices import FANOTIFY, FUSE
from snapshotter.criu import INSTALLED

FANOTIFY_NEEDS = ("fanotify_pre_content", "cache_file_system", "erofs_file_backed")


def filler_route(feature: Callable[[str], Feature]) -> tuple[str, str]:
    """Return the filler that this host can have and why; ``feature`` probes by name.

    Raises Unsupported when it can have neither.
    """
    for name in FANOTIFY_NEEDS:
        found = feature(name)
        if not found.present:
            break
    else:
        return FANOTIFY, "the kernel asks for absent data itself"
    fuse = feature("fuse")
    if not fuse.present:
        raise Unsupported(f"images cannot be mounted: {found.reason}; and FUSE: {fuse.reason}")
    return FUSE, f"{found.name}: {found.reason}"


def mount_route(feature: Callable[[str], Feature], filler: str) -> tuple[str, str]:
    """Return what EROFS is mounted from under ``filler``, "files" or "loop devices", and why.

    Raises Unsupported when neither can be had.
    """
    if filler == FANOTIFY:
        return "files", "a loop device would bypass the kernel's questions"
    found = feature("erofs_file_backed")
    if found.present:
        return "files", found.reason
    loop = feature("erofs_loop")
    if not loop.present:
        raise Unsupported(f"images cannot be mounted: {found.reason}; and loop: {loop.reason}")
    return "loop devices", f"{found.name}: {found.reason}"


def choose_filler(root: Path, wanted: FillerName, guard: KeeperGuard) -> str:
    """Return the filler for ``root``.

    Raises Unsupported when the host lacks what was asked for, Conflict when mounts are served the
    other way.
    """
    there = _in_use(guard)
    if there is not None:
        if wanted not in ("auto", there):
            raise Conflict(
                f"{root}: images are mounted and filled by {there}, not by {wanted}",
                "end everything first: hotstart agent stop --all",
            )
        return there
    if wanted == "auto":
        return filler_route(lambda name: probe_one(name, root, INSTALLED))[0]
    needs = FANOTIFY_NEEDS if wanted == FANOTIFY else ("fuse",)
    for name in needs:
        found = probe_one(name, root, INSTALLED)
        if not found.present:
            raise Unsupported(f"filling by {wanted} needs {name}: {found.reason}")
    return wanted


def _in_use(guard: KeeperGuard) -> str | None:
    """Return how the devices that the keeper holds are served, if it holds any."""
    for name in guard.names(KIND):
        held = guard.get(name)
        if held is not None:
            return FUSE if DeviceMeta.from_json(held.meta).fuse_target else FANOTIFY
    return None
