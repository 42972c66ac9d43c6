"""CRIU in a prefix of its own, so that the system keeps its packages.

    PREFIX/bin/criu        wrapper: starts criu under the prefix's own loader and C library
    PREFIX/libexec/criu    the program as Debian ships it
    PREFIX/lib/            the loader and every library the program is linked with
    PREFIX/version         the version, one line
    PREFIX/self-test       the kernel release that the self-test passed on

A new prefix is made beside the old one, has to pass the self-test there, and is renamed into
place. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from bench.workload.debian_mirror import configured_mirror
from bench.workload.debian_packages import ForeignSuite, unpack
from hotstart.core.errors import HotstartError
from hotstart.core.run import run
from hotstart.kernel import criu_check

PREFIX = Path("/opt/hotstart/criu")
SUITE = "forky"
"""The first Debian release whose CRIU dumps TCP sockets on kernels from 6.16 on."""


def ensure(prefix: Path = PREFIX) -> str:
    """Install CRIU unless a fit one is there; return one line that says what is there.

    Raises CriuUnfit (too old, or fails the self-test on this kernel), MirrorUnknown, CommandFailed.
    """
    kernel = os.uname().release
    if not _is_fit(prefix):
        _install(prefix)
    tested = prefix / "self-test"
    if not tested.is_file() or tested.read_text() != kernel:
        criu_check.self_test([str(prefix / "bin/criu")])
        tested.write_text(kernel)
    version = (prefix / "version").read_text()
    return f"CRIU {version} in {prefix}, self-test passed on kernel {kernel}"


def _is_fit(prefix: Path) -> bool:
    try:
        criu_check.require_fit([str(prefix / "bin/criu")])
    except HotstartError:
        return False
    return (prefix / "version").is_file()


def _install(prefix: Path) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".criu-", dir=prefix.parent) as name:
        staging = Path(name)
        unpacked = _unpack_suite(staging)
        made = staging / "prefix"
        direct = _gather(unpacked, made, prefix)
        version = criu_check.require_fit(direct)
        criu_check.self_test(direct)
        (made / "version").write_text(str(version))
        made.chmod(0o755)
        if prefix.exists():
            prefix.rename(staging / "old")
        made.rename(prefix)


def _unpack_suite(staging: Path) -> Path:
    suite = ForeignSuite(configured_mirror(), SUITE, staging / "apt")
    suite.update()
    unpacked = staging / "unpacked"
    unpacked.mkdir()
    for package in suite.download(["criu"]):
        unpack(package, unpacked)
    return unpacked


def _gather(unpacked: Path, made: Path, prefix: Path) -> list[str]:
    """Copy the program, its loader and libraries; return a command that runs them in ``made``."""
    program = next(unpacked.glob("usr/*bin/criu"))
    loader = next(unpacked.glob("usr/lib/*/ld-linux-*.so.*"))
    for name in ("bin", "lib", "libexec"):
        (made / name).mkdir(parents=True)
    shutil.copy2(program, made / "libexec/criu")
    shutil.copy2(loader, made / "lib" / loader.name)
    for library in _libraries(loader, program):
        shutil.copy2(library, made / "lib")
    wrapper = made / "bin/criu"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'exec {prefix}/lib/{loader.name} --library-path {prefix}/lib {prefix}/libexec/criu "$@"\n'
    )
    wrapper.chmod(0o755)
    library_path = str(made / "lib")
    return [f"{library_path}/{loader.name}", "--library-path", library_path, f"{made}/libexec/criu"]


def _libraries(loader: Path, program: Path) -> list[Path]:
    """Return the libraries that the loader of the same release finds for ``program``."""
    argv = [str(loader), "--library-path", str(loader.parent), "--list", str(program)]
    return sorted(Path(path) for path in re.findall(r"=> (/\S+)", run(argv).text))
