"""Where the bind mounts of a restored container belong: as runc names them, and there to mount on.

runc calls a bind mount in a dump by its target with every link in it followed, so a restore must
too. A target that lies in another volume exists only if that volume's source has it: on a second
node it often has not, and is given it. Needs root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotstart.kernel.inside import make_inside, resolve_inside


def bind_targets(rootfs: Path, mounts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the source of each bind mount by its resolved target; make targets that are missing.

    ``mounts`` are those of config.json, outer ones first. Raises OSError.
    """
    found: dict[str, str] = {}
    for mount in mounts:
        if mount["type"] != "bind":
            continue
        target, source = resolve_inside(rootfs, mount["destination"]), mount["source"]
        top, below = _owner(rootfs, found, target)
        make_inside(top, below, directory=os.path.isdir(source))
        found[target] = source
    return found


def _owner(rootfs: Path, found: Mapping[str, str], target: str) -> tuple[str | Path, str]:
    """Return the tree in which the target lies, and its path there."""
    around = [outer for outer in found if target.startswith(f"{outer}/")]
    if not around:
        return rootfs, target
    outer = max(around, key=len)
    return found[outer], target[len(outer) :]
