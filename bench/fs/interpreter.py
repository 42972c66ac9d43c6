"""A Python that lies on the local disk, whose packages or data lie on what is measured.

With torch it is the demo tree's own Python in a chroot; the directory that is measured is bound
in. Without, it is this Python with PYTHONPATH. ``Interpreter`` owns the overlay and its binds.
Needs root.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fs.source import WEIGHTS
from bench.workload import tree as demo
from hotstart.core.run import run
from hotstart.kernel.mounts import bind, overlay, unmount

TIMEOUT_S = 600.0

LOAD_BY_SAFETENSORS = """
import json, sys, time, zlib
import torch
from safetensors.torch import load_file
started = time.perf_counter()
tensors = load_file(sys.argv[1])
sums = {name: int(t.view(torch.int32).sum()) for name, t in tensors.items()}
ms = (time.perf_counter() - started) * 1e3
crcs = {name: zlib.crc32(t.numpy()) for name, t in tensors.items()}
print(json.dumps({"ms": ms, "sums": sums, "crcs": crcs}))
"""
"""Loads and touches every value; the loader itself only maps the file."""

LOAD_PLAINLY = """
import array, json, mmap, sys, time, zlib
started = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
size = int.from_bytes(view[:8], "little")
header = json.loads(bytes(view[8 : 8 + size]))
data = view[8 + size :]
parts = {name: data[slice(*t["data_offsets"])] for name, t in header.items()}
sums = {name: sum(part.cast("i")) for name, part in parts.items()}
ms = (time.perf_counter() - started) * 1e3
print(json.dumps({"ms": ms, "sums": sums, "crcs": {n: zlib.crc32(p) for n, p in parts.items()}}))
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading took, and checksums of every tensor (sum of words, CRC-32)."""

    ms: float
    sums: dict[str, int]
    crcs: dict[str, int]


class Interpreter:
    """``root``: the chroot, or None for this Python; ``packages``: the local copy of packages."""

    def __init__(self, root: Path | None, packages: Path) -> None:
        self._root = root
        self._packages = packages

    def time_import(self, module: str, packages: Path) -> float:
        """Return the milliseconds of a whole program that imports ``module``."""
        program = f"import {module}; print({module}.__file__)"
        with self._with(packages, None) as (argv, env, _):
            started_s = time.perf_counter()
            run([*argv, "-B", "-c", program], env=env, timeout_s=TIMEOUT_S)
            return (time.perf_counter() - started_s) * 1e3

    def load(self, folder: Path) -> Loaded:
        """Load ``folder``/model.safetensors into memory and touch all of it."""
        program = LOAD_PLAINLY if self._root is None else LOAD_BY_SAFETENSORS
        with self._with(self._packages, folder) as (argv, env, data):
            words = [*argv, "-B", "-c", program, f"{data}/{WEIGHTS}"]
            found: dict[str, Any] = json.loads(run(words, env=env, timeout_s=TIMEOUT_S).text)
        return Loaded(found["ms"], found["sums"], found["crcs"])

    @contextmanager
    def _with(
        self, packages: Path, data: Path | None
    ) -> Iterator[tuple[list[str], dict[str, str], Path | None]]:
        environment = dict(demo.ENVIRONMENT)
        if self._root is None:
            yield [sys.executable], environment | {"PYTHONPATH": str(packages)}, data
            return
        with ExitStack() as binds:
            for source, target in ((packages, demo.PACKAGES), (data, "mnt")):
                if source is not None:
                    bind(source, self._root / target)
                    binds.callback(unmount, self._root / target, detach=True)
            yield ["chroot", str(self._root), demo.ARGV[0]], environment, Path("/mnt")


def interpreter(tree: Path | None, packages: Path, scratch: Path, stack: ExitStack) -> Interpreter:
    """Return the interpreter of the demo tree ``tree``, undone by ``stack``; None: this one."""
    if tree is None:
        return Interpreter(None, packages)
    parts = {name: scratch / name for name in ("merged", "upper", "work")}
    for part in parts.values():
        part.mkdir(parents=True)
    merged = parts["merged"]
    overlay([tree], parts["upper"], parts["work"], merged)
    stack.callback(unmount, merged, detach=True)
    for name in ("dev", "proc"):
        bind(f"/{name}", merged / name)
        stack.callback(unmount, merged / name, detach=True)
    return Interpreter(merged, packages)
