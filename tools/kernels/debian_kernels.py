"""Debian's own kernels, unpacked below the cache and never installed.

    CACHE/6.12/vmlinuz              the kernel
    CACHE/6.12/lib/modules/RELEASE  its modules, with the indexes that modprobe reads
    CACHE/6.12/release              RELEASE, written last: what lacks it is fetched again

apt fetches the package from the configured mirror and verifies it by the archive's signature.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.workload.debian_mirror import configured_mirror
from bench.workload.debian_packages import ForeignSuite, unpack
from hotstart.core.run import run

SUITES = {"6.1": "bookworm", "6.12": "trixie"}
"""The release whose kernel is of that series."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel below ``directory``."""

    series: str
    release: str
    directory: Path

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return self.directory / "vmlinuz"

    @property
    def modules(self) -> Path:
        """The directory of its modules."""
        return self.directory / "lib/modules" / self.release


def ensure(series: str, cache: Path) -> Kernel:
    """Return the kernel, fetched (about 100 MB) if the cache lacks it.

    Raises MirrorUnknown, CommandFailed, Unsupported.
    """
    directory = cache / series
    stamp = directory / "release"
    if not stamp.is_file():
        _fetch(series, directory)
    return Kernel(series, stamp.read_text(), directory)


def _fetch(series: str, directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kernel-", dir=directory.parent) as name:
        staging = Path(name)
        suite = ForeignSuite(configured_mirror(), SUITES[series], staging / "apt")
        suite.update()
        package = suite.download_alone(suite.kernel_image(series))
        unpacked = staging / "unpacked"
        unpack(package, unpacked)
        made = staging / "made"
        (made / "lib").mkdir(parents=True)
        (image,) = unpacked.glob("boot/vmlinuz-*")
        release = image.name.removeprefix("vmlinuz-")
        image.rename(made / "vmlinuz")
        (unpacked / _modules_parent(unpacked)).rename(made / "lib/modules")
        run(["depmod", "--basedir", str(made), release])
        (made / "release").write_text(release)
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)


def _modules_parent(unpacked: Path) -> Path:
    """Debian 13 has its modules below /usr/lib."""
    found = [path for path in ("lib/modules", "usr/lib/modules") if (unpacked / path).is_dir()]
    return Path(found[0])
