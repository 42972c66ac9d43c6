"""The facts of this machine that belong beside every figure.

Read once at the start of a run, load also at its end. A fact that can't be found is None, never a
guess. Owns nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hotstart.core.errors import HotstartError
from hotstart.core.run import run


def collect(scratch: Path, command: Sequence[str], criu: Path | None) -> dict[str, Any]:
    """Return the environment of a run whose files lie in ``scratch``."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "distribution": _os_release(Path("/etc/os-release")),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": file_system_of(scratch),
        "run_file_system": file_system_of(Path("/run")),
        "versions": _versions(criu),
        "commit": _commit(),
        "command": list(command),
        "load_average_before": load_average(),
    }


def load_average() -> list[float]:
    """Return the load of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def file_system_of(path: str | Path) -> str | None:
    """Return the type of the file system that holds ``path``."""
    best: tuple[int, str] | None = None
    target = str(Path(path).resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind = line.split()[:3]
        point = mount_point.encode().decode("unicode_escape")
        prefix = point.rstrip("/") + "/"
        inside = target == point or target.startswith(prefix)
        if inside and (best is None or len(point) >= best[0]):
            best = (len(point), kind)
    return None if best is None else best[1]


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _os_release(path: Path) -> str | None:
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return None


def _versions(criu: Path | None) -> dict[str, str | None]:
    return {
        "python": platform.python_version(),
        "hotstart": _distribution("hotstart"),
        "runc": _first_line(["runc", "--version"]),
        "conmon": _first_line(["conmon", "--version"]),
        "criu": None if criu is None else _first_line([str(criu), "--version"]),
    }


def _distribution(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(argv: Sequence[str]) -> str | None:
    if shutil.which(argv[0]) is None:
        return None
    try:
        lines = run(argv, check=False, timeout_s=10).text.splitlines()
    except HotstartError:
        return None
    return lines[0] if lines else None


def _commit() -> str | None:
    source = Path(__file__).resolve().parent.parent
    if not (source / ".git").exists() or shutil.which("git") is None:
        return None
    done = run(["git", "-C", str(source), "describe", "--always", "--dirty"], check=False)
    return done.text.strip() or None
