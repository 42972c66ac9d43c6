"""A restore around runc: the container is the same, and runc knows it as soon as it has to."""

import errno
import json
import os
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.core.errors import Unsupported
from hotstart.kernel.cgroup import Group
from hotstart.kernel.mounts import mounts_below
from runtime import adoption, direct_restore
from runtime.accounts import Account
from runtime.adoption import adopt
from runtime.bundle import exec_process, read_config
from runtime.container_spec import ContainerSpec, Volume
from runtime.containers import stand_in_of, wait
from runtime.direct_restore import DEVICES, limits_of
from runtime.execution import execute
from runtime.oci_spec import HostSide, Process, runtime_config
from runtime.runc import NotRunning, Runc, RuncFailed
from runtime.thaw import RestoreFailed
from snapshotter.criu_order import Order
from tests.requires import requires
from tests.runtime.small_image import GOLDEN


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


def test_a_limit_that_only_runc_knows_is_not_left_out():
    with pytest.raises(Unsupported, match="shares"):
        limits_of({**resources(cpus=1.0), "cpu": {"quota": 1, "period": 2, "shares": 3}})


@pytest.fixture(scope="module")
def node(small_node):
    with small_node.container("frozen") as container:
        container.capture("warm", GOLDEN)
    return small_node


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
    # fmt: off
    files = (
        "pids.max", "cpu.max", "cpu.cfs_quota_us", "memory.max", "memory.swap.max",
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
    )
    # fmt: on
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


LIST_DATA = "import os; print(os.listdir('/host/data'))"


def run_inside(container, *argv):
    runc = runc_of(container)
    with execute(container.directory, runc, exec_process(container.directory, argv)) as one:
        return one.communicate(timeout_s=30)


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
            direct = seen_from_outside(container)
        through_runc()
        with node.restore("warm", "runc", **limits) as container:
            assert runc_of(container).knows_it()
            assert seen_from_outside(container) == direct
        assert direct["limits"]

    def test_a_restored_container_opens_its_own_devices_and_no_other(self, node):
        script = (
            "import os\n"
            "for name in ('null', 'zero', 'urandom', 'ptmx', 'loop-control'):\n"
            "    try: os.close(os.open('/dev/' + name, os.O_RDWR)); print(name)\n"
            "    except OSError as err: print(name, err.errno)\n"
        )
        with node.restore("warm", "devices") as container:
            loop_control = os.makedev(10, 237)
            os.mknod(container.directory.dev / "loop-control", 0o666 | stat.S_IFCHR, loop_control)
            done = run_inside(container, "/usr/bin/python3", "-S", "-c", script)
        assert done.stdout.decode().split("\n") == [
            "null", "zero", "urandom", "ptmx", f"loop-control {errno.EPERM}", "",
        ]  # fmt: skip

    @pytest.mark.parametrize("target", ["/host/data/", "/host//data", "/link/data"])
    def test_a_volume_is_found_however_its_target_is_written(self, node, tmp_path, target):
        """runc names it with links followed, and so must we."""
        volume = (Volume(str(tmp_path), target),)
        link = node.root / "tree" / "link"
        assert link.is_symlink()
        with node.container("bound", volume) as container:
            container.capture("bound", GOLDEN)
        with node.restore("bound", "bound2", volume) as restored:
            (tmp_path / "seen").touch()
            done = run_inside(restored, "/usr/bin/python3", "-S", "-c", LIST_DATA)
            assert done.stdout == b"['seen']\n"

    def test_a_volume_in_a_volume_is_mounted_though_the_outer_one_is_new(self, node, tmp_path):
        def volumes(name):
            for one in ("outer", "inner"):
                (tmp_path / name / one).mkdir(parents=True)
            outer = Volume(str(tmp_path / name / "outer"), "/host")
            return outer, Volume(str(tmp_path / name / "inner"), "/host/data")

        with node.container("nested", volumes("first")) as container:
            container.capture("nested", GOLDEN)
        with node.restore("nested", "nested2", volumes("second")) as restored:
            (tmp_path / "second" / "inner" / "seen").touch()
            done = run_inside(restored, "/usr/bin/python3", "-S", "-c", LIST_DATA)
            assert done.stdout == b"['seen']\n"

    def test_a_group_that_cannot_be_joined_ends_the_restore(self, node, monkeypatch):
        write = Order.write
        absent = Path("/sys/fs/cgroup/hotstart-absent/cgroup.procs")
        monkeypatch.setattr(
            Order, "write", lambda order, path: write(replace(order, groups=[absent]), path)
        )
        with pytest.raises(RestoreFailed, match="hotstart-absent"):
            node.restore("warm", "groupless")
        assert node.pages.sessions() == []

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
    def test_programs_run_in_a_restored_container_any_number_at_once(self, node):
        print_argv = (
            "/usr/bin/python3",
            "-S",
            "-c",
            "import os; print(os.getpid() > 1, os.uname()[1])",
        )
        with node.restore("warm", "several") as container, ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: run_inside(container, *print_argv), range(4)))
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
            stand_in = stand_in_of(group_of(container))
            assert not any(place.exists() for place in stand_in.directories())
            assert container.ask(path="/")["count"] == 0
        group = node.tools.cgroup_parent.child("adopted")
        assert not any(place.exists() for place in group.directories())

    @pytest.mark.parametrize("lost", ["init_process_start", "external_descriptors"])
    def test_a_runc_whose_state_is_otherwise_is_told_by_name_and_nothing_changes(
        self, node, monkeypatch, lost
    ):
        loads = json.loads

        def without(text):
            value = loads(text)
            if isinstance(value, dict) and "init_process_pid" in value:
                del value[lost]
            return value

        with node.restore("warm", "foreign") as container:
            with monkeypatch.context() as patch:
                patch.setattr(adoption.json, "loads", without)
                with pytest.raises(RuncFailed, match=lost):
                    adopt(container.directory, runc_of(container))
            assert container.ask(path="/")["count"] == 0
            adopt(container.directory, runc_of(container))
            assert runc_of(container).state().pid == container.restored.pid

    def test_an_adoption_needs_nothing_that_may_have_gone_since(self, node, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        volume = (Volume(str(source), "/host"),)
        with node.container("moved", volume) as container:
            container.capture("moved", GOLDEN)
        with node.restore("moved", "moved2", volume) as restored:
            source.rename(tmp_path / "elsewhere")
            (restored.directory.rootfs / "usr/bin/python3").rename(
                restored.directory.rootfs / "usr/bin/other"
            )
            done = run_inside(restored, "/usr/bin/other", "-S", "-c", "print(6 * 7)")
            assert done.stdout == b"42\n"

    def test_a_container_called_like_a_stand_in_is_left_alone(self, node):
        with (
            node.restore("warm", "web") as web,
            node.restore("warm", "web-stand-in") as other,
        ):
            assert run_inside(web, "/usr/bin/python3", "-S", "-c", "").status == 0
            assert other.ask(path="/")["count"] == 0

    def test_a_stand_in_that_an_agent_left_goes_with_the_next_or_with_the_container(self, node):
        with node.restore("warm", "left") as container:
            group = stand_in_of(group_of(container))
            left = adoption._stand_in(container.directory, runc_of(container))
            left.__enter__()
            assert group.processes()
            adopt(container.directory, runc_of(container))
            assert not group.processes()
            shutil.rmtree(runc_of(container).state_directory)
            again = adoption._stand_in(container.directory, runc_of(container))
            again.__enter__()
            assert group.processes()
        assert not any(place.exists() for place in group.directories())

    def test_a_container_that_has_ended_is_not_adopted(self, node):
        with node.restore("warm", "ended") as container:
            group_of(container).kill()
            wait(container.directory)
            with pytest.raises(NotRunning):
                run_inside(container, "/usr/bin/python3")
