"""Which code a worker runs: a worker whose successor would run other code is replaced in place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

VARIABLE = "HOTSTART_WORKER_CODE"
"""Set by the agent for its workers: the version they were started from."""
PACKAGES = ("hotstart", "lazyfs", "snapshotter")
"""What a worker imports of this program."""


def version_of(source: Path) -> str:
    """Return a word that changes when a module of the workers' below ``source`` does.

    From names, sizes and times: the contents would take longer than a start may.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((source / package).rglob("*.py")):
            found = os.stat(path)
            digest.update(
                f"{path.relative_to(source)} {found.st_size} {found.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()[:16]
