"""Limits of control groups that Hotstart makes itself, as files of either version."""

import os
import subprocess

import pytest

from hotstart.core.errors import Conflict, Unsupported
from hotstart.kernel import cgroup, cgroup_limits
from hotstart.kernel.cgroup import Group, Hierarchies, hierarchies
from hotstart.kernel.cgroup_limits import Limits, make_limited
from hotstart.kernel.device_filter import CharacterDevice

LIMITS = Limits(
    processes=100,
    memory_bytes=64 << 20,
    swap_limit=True,
    cpu_us=150_000,
    devices=(CharacterDevice(1, 3), CharacterDevice(136)),
)


def test_version_2_gets_its_files_and_its_controllers_handed_down(tmp_path, monkeypatch):
    attached = []
    monkeypatch.setattr(
        cgroup_limits.device_filter, "attach", lambda path, devices: attached.append(path)
    )
    group = Group("/hotstart-1/web", Hierarchies({}, tmp_path))
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    leaf = tmp_path / "hotstart-1" / "web"
    leaf.mkdir(parents=True)
    handed = {tmp_path: "cpu memory pids\n", tmp_path / "hotstart-1": ""}
    for directory, enabled in handed.items():
        (directory / "cgroup.subtree_control").write_text(enabled)
    make_limited(group, LIMITS)
    values = {file.name: file.read_text() for file in leaf.iterdir()}
    assert values == {
        "pids.max": "100",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "cpu.max": "150000 100000",
    }
    # What is enabled is left as it is; a plain file keeps the last word.
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids\n"
    assert (tmp_path / "hotstart-1" / "cgroup.subtree_control").read_text() == "+cpu"
    assert attached == [leaf]


def test_a_limit_that_the_host_cannot_keep_is_an_error(tmp_path):
    group = Group("/web", Hierarchies({}, tmp_path))
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(Unsupported, match="controller pids"):
        make_limited(group, LIMITS)


@pytest.mark.kernel
def test_this_host_takes_them():
    hosts = hierarchies()
    if any(hosts.of_controller(name) is None for name in ("pids", "memory", "cpu")):
        pytest.skip("a controller is missing on this host")
    parent = Group(f"/hotstart-test-{os.getpid()}", hosts)
    group = parent.child("limited")
    memory = hosts.of_controller("memory")
    swap = memory == hosts.v2 or (memory / "memory.memsw.limit_in_bytes").exists()
    try:
        make_limited(
            group, Limits(processes=7, memory_bytes=32 << 20, swap_limit=swap, cpu_us=50_000)
        )
        files = hosts.of_controller("pids") / group.path.lstrip("/")
        assert (files / "pids.max").read_text().strip() == "7"
        name = "memory.max" if memory == hosts.v2 else "memory.limit_in_bytes"
        assert int((memory / group.path.lstrip("/") / name).read_text()) == 32 << 20
    finally:
        assert parent.remove()


@pytest.mark.kernel
def test_a_group_in_use_is_not_limited_and_a_leftover_one_begins_anew(monkeypatch):
    monkeypatch.setattr(cgroup, "_REMOVE_WAIT_S", 0.05)
    hosts = hierarchies()
    if hosts.of_controller("pids") is None:
        pytest.skip("no pids controller on this host")
    parent = Group(f"/hotstart-test-{os.getpid()}", hosts)
    group = parent.child("again")
    maximum = hosts.of_controller("pids") / group.path.lstrip("/") / "pids.max"
    try:
        make_limited(group, Limits(processes=7))
        make_limited(group, Limits())
        assert maximum.read_text() == "max\n"
        with subprocess.Popen(["sleep", "60"]) as process:
            try:
                group.attach(process.pid)
                with pytest.raises(Conflict, match="has processes"):
                    make_limited(group, Limits(processes=7))
            finally:
                process.kill()
    finally:
        assert parent.remove()
