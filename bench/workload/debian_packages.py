"""Reading packages of another Debian release without touching the packages of this host.

apt resolves against a package status of its own (empty, or a tree's) in a directory of its own,
downloads, and checks signatures as always; nothing is installed, no system state is read or locked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.workload.debian_mirror import Mirror
from hotstart.core.errors import Unsupported
from hotstart.core.run import run

_TIMEOUT_S = 600.0


class ForeignSuite:
    """The packages of one suite, downloaded below ``directory``, which the caller owns.

    ``status`` is the dpkg status of a tree that has some of them already.
    """

    def __init__(
        self, mirror: Mirror, suite: str, directory: Path, *, status: Path | None = None
    ) -> None:
        self._directory = directory
        self._status = status or directory / "status"
        self._archives = directory / "cache/archives"
        for name in ("lists/partial", "cache/archives/partial", "sources.d", "preferences.d"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        (directory / "sources.d/suite.sources").write_text(mirror.sources_list(suite))

    def update(self) -> None:
        """Fetch the package lists. Raises CommandFailed."""
        self._apt("update", "--error-on=any")

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Return the files of ``packages`` and all they depend on. Raises CommandFailed."""
        self._apt("install", "--yes", "--download-only", *packages)
        return sorted(self._archives.glob("*.deb"))

    def kernel_image(self, version: str) -> str:
        """Return the package of the suite's own kernel, of the series ``version`` ("6.1").

        Raises Unsupported when the suite has another series by now.
        """
        text = self._apt("depends", "linux-image-amd64", program="apt-cache")
        found = re.search(rf"Depends: (linux-image-{re.escape(version)}\.\S+)", text)
        if found is None:
            raise Unsupported(f"linux-image-amd64 is not of {version} here: {text.strip()!r}")
        return found[1]

    def download_alone(self, package: str) -> Path:
        """Return the file of one package, without what it depends on. Raises CommandFailed."""
        self._apt("download", package, cwd=self._archives)
        return next(self._archives.glob(f"{package}_*.deb"))

    def _apt(self, *arguments: str, program: str = "apt-get", cwd: Path | None = None) -> str:
        directory = self._directory
        options = {
            "Dir::State": directory,
            "Dir::State::status": self._status,
            "Dir::State::lists": directory / "lists",
            "Dir::Cache": directory / "cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": directory / "sources.d",
            "Dir::Etc::preferencesparts": directory / "preferences.d",
            "APT::Install-Recommends": "0",
            # The directory may lie where the user _apt cannot look.
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "1",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return run([program, "-q", *words, *arguments], timeout_s=_TIMEOUT_S, cwd=cwd).text


def unpack(package: Path, target: Path) -> None:
    """Unpack one package file below ``target`` without running its scripts."""
    run(["dpkg-deb", "--extract", str(package), str(target)], timeout_s=_TIMEOUT_S)
