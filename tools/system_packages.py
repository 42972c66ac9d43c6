"""The programs that Hotstart uses from the system, installed with apt where they are missing.

What is installed already is neither upgraded nor asked about again; the package lists are fetched
only when something is missing. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hotstart.core.errors import UserError
from hotstart.core.run import CommandFailed, run

PACKAGES = (
    "attr",
    "acl",
    "busybox-static",
    "ca-certificates",
    "conmon",
    "debian-archive-keyring",
    "debootstrap",
    "e2fsprogs",
    "erofs-utils",
    "fuse3",
    "iproute2",
    "nftables",
    "procps",
    "python3-venv",
    "runc",
    "wget",
)
"""Programs; ``fuse3`` brings libfuse along, ``e2fsprogs`` makes the file systems of tests and
``busybox-static`` is what their containers run."""

_INSTEAD = {"busybox-static": "busybox"}
"""Packages that serve as well, and that apt would remove to install the wanted one."""

_TIMEOUT_S = 900.0


def ensure(packages: Sequence[str] = PACKAGES) -> str:
    """Install what is missing; return one line that says what is there.

    Raises UserError (not root, no apt), CommandFailed when apt can't.
    """
    wanted = missing(packages)
    if not wanted:
        return f"{len(packages)} system packages are there"
    if os.geteuid() != 0:
        raise UserError(f"missing system packages: {' '.join(wanted)}", "run make setup as root")
    _install(wanted)
    return f"installed {' '.join(wanted)}"


def missing(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Return the packages of this list that dpkg does not have installed."""
    asked = [*packages, *(_INSTEAD[name] for name in packages if name in _INSTEAD)]
    argv = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *asked]
    lines = run(argv, check=False).text.splitlines()
    installed = {line.split()[0] for line in lines if line.endswith(" installed")}
    return [name for name in packages if not installed & {name, _INSTEAD.get(name, name)}]


def _install(packages: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-qq", "--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]
    argv = ["apt-get", *options, "install", *packages]
    # Lists that are too old name files that are gone: fetch them once, then try again.
    if run([*argv, "--simulate"], env=environment, check=False).status == 0:
        try:
            run(argv, env=environment, timeout_s=_TIMEOUT_S)
        except CommandFailed:
            pass
        else:
            return
    run(["apt-get", "-qq", "update"], env=environment, timeout_s=_TIMEOUT_S)
    run(argv, env=environment, timeout_s=_TIMEOUT_S)
