"""Reading packages of another Debian release without touching the packages of this host.

apt resolves against a package status of its own (empty, or a tree's) in a directory of its own,
downloads, and checks signatures as always; nothing is installed, no system state is read or locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.workload.debian_mirror import Mirror
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

    def _apt(self, *arguments: str) -> None:
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
        run(["apt-get", "-q", *words, *arguments], timeout_s=_TIMEOUT_S)


def unpack(package: Path, target: Path) -> None:
    """Unpack one package file below ``target`` without running its scripts."""
    run(["dpkg-deb", "--extract", str(package), str(target)], timeout_s=_TIMEOUT_S)
