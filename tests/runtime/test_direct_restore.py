"""A restore around runc: the container is the same, and runc knows it as soon as it has to."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.kernel.cgroup import Group
from hotstart.kernel.mounts import mounts_below
from runtime import adoption, direct_restore
from runtime.accounts import Account
from runtime.adoption import adopt
from runtime.bundle import exec_process, read_config
from runtime.container_spec import ContainerSpec
from runtime.containers import wait
from runtime.direct_restore import DEVICES, limits_of
from runtime.execution import execute
from runtime.oci_spec import HostSide, Process, runtime_config
from runtime.runc import NotRunning, Runc, RuncFailed
from runtime.thaw import RestoreFailed
from snapshotter.criu_order import Order
from tests.requires import requires
from tests.runtime.small_image import PORT, SmallNode

GOLDEN = {"path": "/", "port": PORT, "expect": {"mode": "json"}}


def resources(**fields):
    host = HostSide(
        rootfs="/r", dev="/d", shm="/s", netns="/n", cgroup="/c", open_files=(1, 1), swap_limit=True
    )
    spec = ContainerSpec(name="web", **fields)
    process = Process(("x",), (), "/", "", "SIGTERM")
    return runtime_config(spec, process, Account(0, 0), host)["linux"]["resources"]


def test_limits_are_those_of_the_bundle():
    plain = limits_of(resources())
    assert (plain.memory_bytes, plain.cpu_us, plain.devices) == (None, None, DEVICES)
    assert plain.processes == resources()["pids"]["limit"]
    limited = limits_of(resources(memory_bytes=64 << 20, cpus=1.5))
    assert (limited.memory_bytes, limited.swap_limit) == (64 << 20, True)
    assert (limited.cpu_us, limited.cpu_period_us) == (150_000, 100_000)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = SmallNode(tmp_path_factory.mktemp("node"))
    with node.container("frozen") as container:
        container.capture("warm", GOLDEN)
    yield node
    node.close()


def group_of(container):
    return Group.named(read_config(container.directory)["linux"]["cgroupsPath"])


def runc_of(container):
    return Runc(container.node.programs, container.directory)


def seen_from_outside(container):
    """Return what tells one container's confinement from another's, without names and numbers."""
    pid = container.restored.pid
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    shown = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid")
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    namespaces = {
        name: os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts")
    }
    files = ("pids.max", "memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max")
    limits = {
        name: (place / name).read_text()
        for place in group_of(container).directories()
        for name in files
        if (place / name).exists()
    }
    return {
        "status": {name: status[name] for name in shown},
        "mounts": sorted(tuple(line.split()[i] for i in (3, 4, 5)) for line in mounts),
        "namespaces": namespaces,
        "limits": limits,
        "rlimits": Path(f"/proc/{pid}/limits").read_text(),
        "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "groups": re.sub(container.directory.name, "NAME", Path(f"/proc/{pid}/cgroup").read_text()),
    }


def allowed_devices(container):
    root = group_of(container).hosts.v1.get("devices")
    if root is None:
        pytest.skip("this host has no devices controller to read")
    return set(
        (root / group_of(container).path.lstrip("/") / "devices.list").read_text().split("\n")
    )


@pytest.mark.kernel
@requires("criu")
class TestRoutes:
    @pytest.fixture
    def through_runc(self, node, monkeypatch):
        """Have the next restores go through runc."""

        def switch():
            tools = replace(node.tools, thaw=replace(node.tools.thaw, around_runc=False))
            monkeypatch.setattr(node.restorer, "_tools", tools)

        return switch

    def test_both_routes_confine_a_container_alike(self, node, through_runc):
        limits = {"memory_bytes": 512 << 20, "cpus": 1.0}
        with node.restore("warm", "direct", **limits) as container:
            assert not runc_of(container).knows_it()
            direct, devices = seen_from_outside(container), allowed_devices(container)
        through_runc()
        with node.restore("warm", "runc", **limits) as container:
            assert runc_of(container).knows_it()
            assert seen_from_outside(container) == direct
            assert devices <= allowed_devices(container)
        assert direct["limits"]

    def test_a_host_that_cannot_set_the_limits_restores_through_runc(self, node, monkeypatch):
        def refuse(group, limits):
            group.create()
            raise PermissionError(1, "not permitted")

        monkeypatch.setattr(direct_restore, "make_limited", refuse)
        with node.restore("warm", "refused") as container:
            assert runc_of(container).knows_it()
            assert container.ask(path="/")["count"] == 0

    def test_what_criu_cannot_restore_leaves_nothing(self, node, monkeypatch):
        words = Order.words
        monkeypatch.setattr(
            Order, "words", lambda order: [w.replace("[/dev]", "[/other]") for w in words(order)]
        )
        with pytest.raises(RestoreFailed, match=r"No mapping for .* mountpoint"):
            node.restore("warm", "broken")
        assert node.pages.sessions() == []
        assert not (node.root / "containers" / "broken").exists()
        group = node.tools.cgroup_parent.child("broken")
        assert not any(place.exists() for place in group.directories())


@pytest.mark.kernel
@requires("criu")
class TestAdoption:
    def run(self, container, *argv):
        runc = runc_of(container)
        with execute(container.directory, runc, exec_process(container.directory, argv)) as one:
            return one.communicate(timeout_s=30)

    def test_programs_run_in_a_restored_container_any_number_at_once(self, node):
        print_argv = (
            "/usr/bin/python3",
            "-S",
            "-c",
            "import os; print(os.getpid() > 1, os.uname()[1])",
        )
        with node.restore("warm", "several") as container, ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: self.run(container, *print_argv), range(4)))
            assert [one.stdout for one in done] == [b"True frozen\n"] * 4
            state = runc_of(container).state()
            assert (state.status, state.pid) == ("running", container.restored.pid)
            assert container.ask(path="/")["count"] == 0

    def test_nothing_of_the_stand_in_stays(self, node):
        with node.restore("warm", "adopted") as container:
            before = set(os.listdir(container.directory.path))
            mounts = mounts_below(container.directory.path)
            adopt(container.directory, runc_of(container))
            assert set(os.listdir(container.directory.path)) == before
            assert mounts_below(container.directory.path) == mounts
            stand_in = Group.named(f"{group_of(container).path}-stand-in")
            assert not any(place.exists() for place in stand_in.directories())
            assert container.ask(path="/")["count"] == 0
        group = node.tools.cgroup_parent.child("adopted")
        assert not any(place.exists() for place in group.directories())

    def test_an_adoption_that_fails_may_be_tried_again(self, node, monkeypatch):
        with node.restore("warm", "twice") as container:
            with monkeypatch.context() as patch:
                patch.setattr(
                    adoption, "streams_of", lambda _: (_ for _ in ()).throw(KeyError("x"))
                )
                with pytest.raises(RuncFailed):
                    adopt(container.directory, runc_of(container))
            assert container.ask(path="/")["count"] == 0
            adopt(container.directory, runc_of(container))
            assert runc_of(container).state().pid == container.restored.pid

    def test_a_container_that_has_ended_is_not_adopted(self, node):
        with node.restore("warm", "ended") as container:
            group_of(container).kill()
            wait(container.directory)
            with pytest.raises(NotRunning):
                self.run(container, "/usr/bin/python3")
