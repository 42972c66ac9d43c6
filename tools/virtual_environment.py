"""``.venv`` in the checkout: Hotstart, editable, with what developing and the benchmark need.

The stamp in it holds the digest of pyproject.toml and of the interpreter, so that a second run
does nothing. Packages come from wherever pip is configured to look. None of them is torch:
that one lives in the demo tree only. Standard library only.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from hotstart.core.run import run

_TIMEOUT_S = 900.0


def ensure(checkout: Path) -> str:
    """Make or complete the environment; return one line. Raises CommandFailed."""
    environment = checkout / ".venv"
    stamp = environment / "hotstart-stamp"
    wanted = _wanted(checkout)
    program = environment / "bin/hotstart"
    if stamp.is_file() and stamp.read_text() == wanted and program.exists():
        return f"{environment} is up to date"
    python = environment / "bin/python"
    if not _works(python):
        shutil.rmtree(environment, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(environment)], timeout_s=_TIMEOUT_S)
    pip = [str(python), "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "-q"]
    run([*pip, "--upgrade", "pip"], timeout_s=_TIMEOUT_S)
    run([*pip, "--editable", ".[dev,bench]"], cwd=checkout, timeout_s=_TIMEOUT_S)
    stamp.write_text(wanted)
    return f"{environment} has hotstart and its tools"


def _wanted(checkout: Path) -> str:
    inputs = [
        str(checkout).encode(),
        sys.version.encode(),
        (checkout / "pyproject.toml").read_bytes(),
    ]
    return hashlib.sha256(b"\0".join(inputs)).hexdigest()


def _works(python: Path) -> bool:
    """A moved checkout or an upgraded interpreter leaves an environment that can't start pip."""
    if not python.exists():
        return False
    return run([str(python), "-m", "pip", "--version"], check=False).status == 0
