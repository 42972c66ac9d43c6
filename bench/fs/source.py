"""The files that every file system serves: made by the benchmark, the same in every run.

    TREE/sequential.bin      half random, half text: zstd halves it
    TREE/random.bin          random bytes, for page faults
    TREE/model.safetensors   weights as F32, random bytes
    TREE/first/NNN           random bytes, only the beginnings are read
    TREE/packages/           Python packages: those that torch needs, or a small stand-in

Byte code in ``packages`` is changed to the kind that is not checked against file times
(PEP 552): object stores have other times, and no file system is to pay for that.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.fs.options import MIB, Sizes

SEQUENTIAL, RANDOM, WEIGHTS, PACKAGES = (
    "sequential.bin", "random.bin", "model.safetensors", "packages",
)  # fmt: skip
MODULE = "bench_stand_in"
_NEEDED = (
    "torch", "torchgen", "functorch", "numpy", "numpy.libs", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions.py", "safetensors",
)  # fmt: skip
_LEFT_OUT = ("include", "tests", "test", "share")
"""Folders that no import reads: thousands of headers and tests."""
_TENSOR_BYTES = 64 * MIB
_PYC_HEADER_BYTES = 16
_TEXT = b"the kernel is the data plane, python the control plane; "


@dataclass(frozen=True, slots=True)
class Source:
    """The finished tree. ``digests``: BLAKE3 of the large files; ``first``: first pages."""

    tree: Path
    module: str
    """What the import workload imports."""
    digests: Mapping[str, bytes]
    first: Mapping[str, bytes]
    entries: Mapping[str, int]
    """Directories and files below ``packages``, and below that part of them which is walked cold:
    with peers that ask for each name all of them would take minutes."""


def make_source(tree: Path, sizes: Sizes, packages: Path | None) -> Source:
    """Make the tree; ``packages``: the directory that torch is installed in, None: a stand-in."""
    (tree / "first").mkdir(parents=True)
    _write(tree / SEQUENTIAL, _compressible(sizes.sequential))
    _write(tree / RANDOM, _random(sizes.random, seed=2))
    _write(tree / WEIGHTS, _safetensors(sizes.weights))
    first = {}
    for number in range(2 * (sizes.first_files + sizes.first_concurrent)):
        name = f"first/{number:04d}"
        content = b"".join(_random(sizes.first_bytes, seed=1000 + number))
        (tree / name).write_bytes(content)
        first[name] = content[:4096]
    if packages is None:
        _make_stand_in(tree / PACKAGES)
    else:
        _copy_packages(packages, tree / PACKAGES)
    large = (SEQUENTIAL, RANDOM, WEIGHTS)
    return Source(
        tree=tree,
        module="torch" if packages is not None else MODULE,
        digests={name: file_digest(tree / name) for name in large},
        first=first,
        entries={name: entries_below(tree / name) for name in (PACKAGES, walked(tree))},
    )


def walked(tree: Path) -> str:
    """Return the folder of the tree that is walked cold: one package of about 800 entries."""
    return f"{PACKAGES}/{'numpy' if (tree / PACKAGES / 'numpy').is_dir() else MODULE}"


def entries_below(top: Path) -> int:
    """Return the number of directories and files."""
    return sum(1 for _ in top.rglob("*"))


def file_digest(path: Path) -> bytes:
    """Return the BLAKE3 of a file's content."""
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(4 * MIB):
            hasher.update(block)
    return hasher.digest()


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)


def _random(size: int, seed: int) -> Iterator[bytes]:
    """Yield ``size`` bytes that look random and are the same in every run (AES-CTR of zeros)."""
    cipher = Cipher(algorithms.AES(seed.to_bytes(16, "big")), modes.CTR(bytes(16))).encryptor()
    for start in range(0, size, MIB):
        yield cipher.update(bytes(min(MIB, size - start)))


def _compressible(size: int) -> Iterator[bytes]:
    """Yield pages of which one half is random and the other text."""
    text = (_TEXT * (2048 // len(_TEXT) + 1))[:2048]
    for block in _random(size // 2, seed=1):
        yield b"".join(block[i : i + 2048] + text for i in range(0, len(block), 2048))


def _safetensors(size: int) -> Iterator[bytes]:
    """Yield a safetensors file (an 8-byte length, a JSON header, the tensors) of F32 tensors."""
    count = math.ceil(size / _TENSOR_BYTES)
    each = size // count // 4 * 4
    header = {
        f"layer.{n}.weight": {
            "dtype": "F32", "shape": [each // 4], "data_offsets": [n * each, (n + 1) * each],
        }
        for n in range(count)
    }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from _random(count * each, seed=3)


def _make_stand_in(packages: Path) -> None:
    for number in range(20):
        package = packages / MODULE / f"part{number}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"NUMBER = {number}\n" + "# filler\n" * 600)
    lines = [f"from {MODULE} import part{number}" for number in range(20)]
    (packages / MODULE / "__init__.py").write_text("\n".join(lines) + "\n")


def _copy_packages(packages: Path, target: Path) -> None:
    target.mkdir()
    for name in _NEEDED:
        if (packages / name).is_dir():
            ignored = shutil.ignore_patterns(*_LEFT_OUT)
            shutil.copytree(packages / name, target / name, ignore=ignored)
        elif (packages / name).exists():
            shutil.copy2(packages / name, target / name)
    for code in target.rglob("*.pyc"):
        _uncheck(code)


def _uncheck(code: Path) -> None:
    """Give byte code the header of an unchecked hash-based .pyc: flags 1, then any hash."""
    content = bytearray(code.read_bytes())
    content[4:_PYC_HEADER_BYTES] = (1).to_bytes(4, "little") + bytes(8)
    found = code.stat()
    code.write_bytes(content)
    os.utime(code, ns=(found.st_atime_ns, found.st_mtime_ns))
