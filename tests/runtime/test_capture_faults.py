"""Whatever fails in a capture, the container goes on and nothing of the attempt is left."""

import os
import stat

import pytest

from hotstart.core.errors import NotFound
from hotstart.core.run import CommandTimedOut
from hotstart.kernel.cgroup import Group
from hotstart.kernel.mounts import mounts_below
from hotstart.store.references import ReferenceName
from runtime import capture, rehearsal, thaw
from runtime.capture import Capturer, NotEnded
from runtime.conmon import Conmon
from runtime.container_spec import Volume
from runtime.rehearsal import Rehearsal, RehearsalFailed
from runtime.runc import Runc
from tests.requires import requires
from tests.runtime.small_image import GOLDEN, wait_for

pytestmark = [pytest.mark.kernel, requires("criu")]


@pytest.fixture(scope="module")
def node(small_node):
    return small_node


class Injected(Exception):
    """What every failing step raises: no error that anybody could expect."""


@pytest.fixture(scope="module")
def container(node):
    with node.container("steady", (Volume(str(node.root / "tree" / "host"), "/host"),)) as it:
        yield it


def left(node):
    """Return what a capture may leave: files, mounts, networks, groups, sessions, held sets."""
    groups = [path for path in node.tools.cgroup_parent.directories() if path.is_dir()]
    return {
        "files": os.listdir(node.root / "tmp") if (node.root / "tmp").exists() else [],
        "directories": sorted(os.listdir(node.root / "containers")),
        "mounts": sorted(mount.target for mount in mounts_below(node.root)),
        "networks": sorted(os.listdir(node.root / "run" / "netns")),
        "groups": sorted(
            str(child) for path in groups for child in path.iterdir() if child.is_dir()
        ),
        "sessions": node.pages.sessions(),
        "held": node.keeper.names("page"),
    }


def fail_before(monkeypatch, owner, name):
    def fail(*_, **__):
        raise Injected(name)

    monkeypatch.setattr(owner, name, fail)


def fail_after(monkeypatch, owner, name):
    real = getattr(owner, name)

    def done(*words, **named):
        real(*words, **named)
        raise Injected(name)

    monkeypatch.setattr(owner, name, done)


STEPS = [
    (fail_before, capture, "make_resident"),
    (fail_before, capture, "ask"),
    (fail_before, capture, "write_criu_config"),
    (fail_before, Runc, "checkpoint"),
    (fail_after, Runc, "checkpoint"),
    (fail_before, capture, "merge_lower_upper"),
    (fail_before, Runc, "pause"),
    (fail_after, Runc, "pause"),
    (fail_before, capture, "build_files"),
    (fail_after, capture, "build_files"),
    (fail_after, capture, "draft_manifest"),
    (fail_before, capture, "understand"),
    (fail_before, rehearsal, "thaw"),
    (fail_before, thaw, "_open_session"),
    (fail_before, thaw, "mount_rootfs"),
    (fail_after, thaw, "write_bundle"),
    (fail_before, Conmon, "restore"),
    (fail_after, Conmon, "restore"),
    (fail_after, rehearsal, "thaw"),
    (fail_after, Rehearsal, "_directory"),
    (fail_after, Rehearsal, "_copy_on_write"),
    (fail_before, rehearsal, "ask"),
    (fail_before, rehearsal, "merge"),
    (fail_after, Capturer, "_is_stateful"),
    (fail_after, capture, "make_bundle"),
    (fail_before, capture, "sign"),
    (fail_before, capture, "publish"),
]


@pytest.mark.parametrize(
    ("how", "owner", "name"), STEPS, ids=[f"{how.__name__}-{name}" for how, _, name in STEPS]
)
def test_a_step_that_fails_leaves_nothing_and_the_container_goes_on(
    node, container, monkeypatch, how, owner, name
):
    before = left(node)
    how(monkeypatch, owner, name)
    with pytest.raises(Injected):
        container.capture("broken", GOLDEN)
    monkeypatch.undo()
    assert goes_on(container)
    wait_for(lambda: left(node) == before, f"nothing left: {before}", 5)
    with pytest.raises(NotFound):
        node.store.references.get(ReferenceName.parse("broken"))


TOOLS = ["images.mount", "images.mount_recording", "networks.isolated", "thaw.pages.recording"]


@pytest.mark.parametrize("path", TOOLS)
@pytest.mark.parametrize("turn", [1, 2])
def test_a_tool_that_fails_leaves_nothing_and_the_container_goes_on(
    node, container, monkeypatch, path, turn
):
    """At its first use, and in the second of two rehearsals or at the second mount."""
    before, owner = left(node), node.tools
    *names, last = path.split(".")
    for one in names:
        owner = getattr(owner, one)
    real, calls = getattr(owner, last), []

    def fail(*words, **named):
        calls.append(1)
        if len(calls) == turn:
            raise Injected(path)
        return real(*words, **named)

    monkeypatch.setattr(owner, last, fail)
    with pytest.raises(Injected):
        container.capture("broken", GOLDEN, GOLDEN)
    monkeypatch.undo()
    assert goes_on(container)
    wait_for(lambda: left(node) == before, f"nothing left: {before}", 5)


def test_a_container_that_cannot_be_ended_goes_on_and_the_snapshot_is_there(
    node, container, monkeypatch
):
    kill = Group.kill

    def fail(group):
        if group.path.endswith("/steady"):
            raise PermissionError(1, "injected")
        return kill(group)

    monkeypatch.setattr(Group, "kill", fail)
    before = left(node)
    with pytest.raises(NotEnded, match=r"is published.*goes on: .*injected"):
        container.capture("whole", GOLDEN)
    monkeypatch.undo()
    assert goes_on(container)
    assert left(node) == before
    assert node.store.references.get(ReferenceName.parse("whole"))


def test_a_dump_that_is_killed_while_all_stands_still_lets_the_container_go_on(
    node, container, monkeypatch
):
    """As runc leaves it that is killed for taking too long: frozen by CRIU."""

    def frozen(self, *_, **__):
        self.pause()
        raise CommandTimedOut(["runc"], 1.0)

    monkeypatch.setattr(Runc, "checkpoint", frozen)
    with pytest.raises(CommandTimedOut):
        container.capture("broken", GOLDEN, leave_running=True)
    monkeypatch.undo()
    assert goes_on(container)


@pytest.mark.parametrize("device", [True, False])
def test_a_volume_that_cannot_be_copied_is_refused_before_it_is_read(node, tmp_path, device):
    place = tmp_path / "special"
    if device:
        os.mknod(place, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero has no end
    else:
        os.mkfifo(place)
    before = left(node)
    with (
        node.container("odd", (Volume(str(place), "/host/special"),)) as odd,
        pytest.raises(RehearsalFailed, match="/host/special is neither"),
    ):
        odd.capture("odd", GOLDEN)
    wait_for(lambda: left(node) == before, f"nothing left: {before}", 5)


def goes_on(container):
    return container.runc.state().status == "running" and container.ask(path="/")["count"] == 0
