"""Real containers from a root file system of one static program, for the tests of runtime."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hotstart.core.run import run
from hotstart.kernel.cgroup import Group
from runtime.bundle import exec_process, write_bundle
from runtime.conmon import Conmon
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.containers import tear_down
from runtime.dev_shm import mount_dev_shm
from runtime.execution import execute
from runtime.links import Network, root_id
from runtime.rootfs import mount_rootfs, write_host_files
from runtime.runc import Programs, Runc

IMAGE_CONFIG = {"config": {"Env": ["PATH=/bin", "FROM=image"], "WorkingDir": "/site"}}


BUSYBOX = Path("/bin/busybox")
# fmt: off
_APPLETS = (
    "cat", "dd", "env", "head", "httpd", "id", "ls", "mount", "nc", "sh", "sleep", "tail", "usleep",
)
# fmt: on


def make_rootfs(path: Path) -> Path:
    """Make a root file system out of the host's busybox; static, or with the libraries it needs."""
    if not BUSYBOX.exists():
        pytest.skip("no busybox on this host; run make setup")
    lacking = set(_APPLETS) - set(run([str(BUSYBOX), "--list"]).text.split())
    if lacking:
        pytest.skip(f"this host's busybox lacks {', '.join(sorted(lacking))}: take busybox-static")
    path.chmod(0o755)
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "usr", "site"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin" / "busybox")
    for applet in _APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    libraries = re.findall(r"(/\S+) \(0x", run(["ldd", str(BUSYBOX)], check=False).text)
    for library in map(Path, libraries):
        place = path / "usr" / library.relative_to("/" if library.parts[1] != "usr" else "/usr")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    for name in ("lib", "lib64"):  # for tests that bind the host's /usr and run its Python
        (path / name).symlink_to(f"usr/{name}")
    (path / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
    (path / "etc" / "group").write_text("root:x:0:\nwww:x:34:\nextra:x:77:web\n")
    return path


@dataclass
class SmallContainer:
    """A started container."""

    directory: ContainerDirectory
    runc: Runc
    group: Group
    network: Network
    pid: int

    def exec(self, *argv: str, stdin: bytes = b"", timeout_s: float = 30.0, **changes):
        """Run a program inside to its end."""
        process = exec_process(self.directory, argv, **changes)
        with execute(self.directory, self.runc, process) as execution:
            return execution.communicate(stdin, timeout_s)


@contextmanager
def started(
    root: Path,
    lower: Path,
    network: Network,
    spec: ContainerSpec,
    *,
    log_max_bytes=None,
    criu_config=None,
    env=None,
):
    """Create and start a container; everything of it is gone at the end but its directory."""
    programs = Programs.find()
    directory = ContainerDirectory.of(root, spec.name)
    with ExitStack() as undo:
        directory.create()
        group = Group.named(f"/hotstart-{root_id(root)}").child(spec.name)
        runc = Runc(programs, directory, env=env)
        undo.callback(tear_down, directory, runc, group)
        mount_rootfs([lower], directory.upper, directory.work, directory.rootfs)
        write_host_files(directory.rootfs, spec.hostname or spec.name, "")
        mount_dev_shm(directory.dev, directory.shm)
        write_bundle(
            directory,
            spec,
            IMAGE_CONFIG,
            netns=network.path,
            cgroup=group.path,
            criu_config=criu_config,
        )
        limit = {} if log_max_bytes is None else {"log_max_bytes": log_max_bytes}
        pid = Conmon(programs, directory, **limit).create()
        runc.start()
        yield SmallContainer(directory, runc, group, network, pid)
