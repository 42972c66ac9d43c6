"""Control groups on whatever this host mounts, and the parsing of hosts it isn't."""

import errno
import os
import secrets
from pathlib import Path

import pytest

from hotstart.core.run import spawn
from hotstart.kernel import cgroup
from hotstart.kernel.cgroup import Group, Hierarchies, hierarchies
from hotstart.kernel.mounts import MountEntry

_V2 = MountEntry("/sys/fs/cgroup", "cgroup2", "cgroup2", "rw", "0:1", "/")
_UNIFIED = MountEntry("/sys/fs/cgroup/unified", "cgroup2", "cgroup2", "rw", "0:1", "/")
_CPU = MountEntry("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cgroup", "rw,cpu,cpuacct", "0:2", "/")
_NAMED = MountEntry("/sys/fs/cgroup/systemd", "cgroup", "cgroup", "rw,name=systemd", "0:3", "/")
_ELSEWHERE = MountEntry("/mnt/memory", "cgroup", "cgroup", "rw,memory", "0:4", "/")


@pytest.mark.parametrize(
    ("table", "mode", "roots"),
    [
        ([], "none", []),
        ([_V2], "v2", ["/sys/fs/cgroup"]),
        (
            [_CPU, _NAMED, _ELSEWHERE],
            "v1",
            ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd"],
        ),
        ([_CPU, _UNIFIED], "hybrid", ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"]),
    ],
)
def test_mode_is_read_from_the_mount_table(monkeypatch, table, mode, roots):
    monkeypatch.setattr(cgroup, "mount_table", lambda: table)
    found = hierarchies()
    assert found.mode == mode
    assert sorted(map(str, found.roots)) == sorted(roots)
    if mode in ("v1", "hybrid"):
        assert found.of_controller("cpu") == found.of_controller("cpuacct")


def test_memory_is_read_from_version_2(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "memory.current").write_text("123\n")
    (tmp_path / "g" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    group = Group("/g", Hierarchies({}, tmp_path))
    assert (group.memory_bytes(), group.memory_kills()) == (123, 2)
    assert Group("/gone", Hierarchies({}, tmp_path)).memory_bytes() is None


@pytest.fixture
def group():
    group = Group.named(f"hotstart-test-{secrets.token_hex(4)}")
    yield group
    group.kill()
    assert group.remove()


@pytest.mark.kernel
def test_process_joins_the_group_everywhere_and_is_killed_with_it(group):
    group.create()
    process = spawn(["sleep", "60"])
    try:
        group.attach(process.pid)
        assert group.processes() == {process.pid}
        lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        assert [line for line in lines if line.endswith(group.path)]
        assert group.memory_bytes() is None or group.memory_bytes() >= 0
        assert group.kill() == 1
    finally:
        process.kill()
        process.wait()


@pytest.mark.kernel
def test_groups_are_removed_with_what_is_in_them(group):
    group.child("inner").create()
    assert all(path.is_dir() for path in group.directories())
    assert group.remove()
    assert not any(path.exists() for path in group.directories())
    assert group.remove()


@pytest.mark.kernel
def test_busy_group_is_not_removed(group, monkeypatch):
    monkeypatch.setattr(cgroup, "_REMOVE_WAIT_S", 0.05)
    group.create()
    process = spawn(["sleep", "60"])
    try:
        group.attach(process.pid)
        assert not group.remove()
        assert os.path.exists(f"/proc/{process.pid}")
    finally:
        process.kill()
        process.wait()


def test_a_group_that_goes_while_it_is_read_is_a_group_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "web").mkdir()
    group = Group("/web", Hierarchies({"memory": tmp_path, "freezer": tmp_path}, None))

    def gone(path, *_):
        raise OSError(errno.ENODEV, "No such device", str(path))

    monkeypatch.setattr(Path, "read_text", gone)
    monkeypatch.setattr(Path, "write_text", gone)
    assert group.processes() == set()
    assert group.memory_bytes() is None
    assert group.memory_kills() == 0
    assert group.kill() == 0
