"""``make setup``: everything that Hotstart needs on a Debian 12 or 13 machine, nothing twice.

System packages, CRIU in a prefix of its own (with a self-test), ``.venv``, and whether pip has a
CPU build of torch for the demo. Idempotent: a second
run takes about a second. Standard library only, since this is what installs the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from hotstart.core.errors import HotstartError, UserError
from tools import criu_prefix, system_packages, torch_build, virtual_environment

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run every step; the first that fails ends it with a sentence and status 1."""
    steps: tuple[Callable[[], str], ...] = (
        _check_host,
        system_packages.ensure,
        criu_prefix.ensure,
        lambda: virtual_environment.ensure(CHECKOUT),
        lambda: torch_build.ensure(CHECKOUT),
    )
    for step in steps:
        try:
            print(f"setup: {step()}", flush=True)
        except HotstartError as err:
            hint = f"; {err.hint}" if isinstance(err, UserError) and err.hint else ""
            print(f"setup: {err}{hint}", file=sys.stderr)
            return 1
    return 0


def _check_host() -> str:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036  # whatever python3 is here runs this file
        raise UserError(f"Python {found} is too old", "use 3.11 or newer: make PYTHON=python3.11")
    if os.geteuid() != 0:
        raise UserError("set-up installs packages and dumps a process", "run it as root")
    kernel = os.uname().release
    return f"Python {found} on kernel {kernel}; the first time takes about a minute"


if __name__ == "__main__":
    sys.exit(main())
