"""What becomes of a container that is stopped while it starts."""

import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent import containers as containers_module
from agent.container_errors import STOPPED_AT_START, CloneRefused, NameTaken, StoppedAtStart
from agent.containers import Containers, Tools
from agent.failed_reads import FailedReads
from agent.records import ContainerRecord, HeldMount
from agent.state import State
from hotstart.core.errors import HotstartError
from hotstart.kernel.pidfd import ProcessIdentity, remember
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.containers import ContainerStatus

RECORD = ContainerRecord(
    spec=ContainerSpec(name="web"),
    stage="starting",
    store_url="file:///s",
    reference="app:v1",
    digest="",
    image_reference="app:v1",
    image_digest="",
    route="cold",
    created_ns=1,
)


class Mounted:
    released = False

    def release(self):
        self.released = True


class Node:
    """Containers without processes: ``killed`` is set when they would have been ended."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.killed = threading.Event()
        self.state = State(root / "state.db")
        monkeypatch.setattr(containers_module.life, "tear_down", lambda *_: None)
        group = SimpleNamespace(child=lambda name: self)
        programs = SimpleNamespace(runc="runc")
        self.containers = Containers(
            Tools(root, self.state, programs, None, None, None, group, FailedReads(dict))
        )

    def kill(self):
        self.killed.set()

    def processes(self):
        return set()

    def frozen(self):
        return False

    def stop(self, start):
        """Stop the container beside what the caller does; return when that has begun."""

        def stop():
            self.view = self.containers.stop("web", grace_s=10)

        self.stopping = threading.Thread(target=stop)
        self.stopping.start()
        assert self.killed.wait(10)


@pytest.fixture
def node(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch)
    yield node
    node.containers.close()
    node.state.close()


def start_and(node, *steps):
    """Start the container, and carry out ``steps`` before the start is over."""
    with node.containers.starting(RECORD) as start:
        for step in steps:
            step(start)


def fail(start):
    raise HotstartError("the snapshot cannot be restored: it was killed")


def test_a_start_that_is_stopped_is_refused_its_commit_and_lets_go_of_everything(node):
    mounted = Mounted()
    with pytest.raises(StoppedAtStart, match=STOPPED_AT_START):
        start_and(node, node.stop, lambda start: start.commit(RECORD, (mounted,)))
    node.stopping.join()
    assert mounted.released
    assert (node.view.state, node.view.reason) == ("stopped", STOPPED_AT_START)
    assert node.containers.views() == []
    assert node.state.containers() == {}


def test_a_start_that_waits_is_told_of_the_stop(node):
    """By ``check``, which a download calls."""
    with pytest.raises(StoppedAtStart):
        start_and(node, lambda start: start.check(), node.stop, lambda start: start.check())
    node.stopping.join()


def test_what_fails_for_a_stop_is_told_as_the_stop(node):
    with pytest.raises(StoppedAtStart):
        start_and(node, node.stop, fail)
    node.stopping.join()


def test_processes_that_come_after_the_stop_are_killed_too(node):
    def await_another_kill(start):
        node.killed.clear()
        assert node.killed.wait(10)

    with pytest.raises(StoppedAtStart):
        start_and(node, node.stop, await_another_kill, fail)
    node.stopping.join()


def test_a_cancelled_call_whose_start_cannot_be_killed_hears_nothing_of_it(node):
    def kill():
        raise OSError("cgroup.procs")

    node.kill = kill
    start_and(node, lambda start: start.kill())
    assert node.containers.views() == []
    assert node.state.containers() == {}


def test_a_name_is_taken_until_its_start_is_undone(node, monkeypatch):
    tried = []

    def tear_down(*_):
        with pytest.raises(NameTaken), node.containers.starting(RECORD):
            pass
        tried.append(True)

    monkeypatch.setattr(containers_module.life, "tear_down", tear_down)
    with pytest.raises(HotstartError), node.containers.starting(RECORD):
        raise HotstartError("no")
    assert tried


def test_two_restores_at_once_are_no_clones_of_each_other(node):
    """The look and the reservation are one step: the other may have come between."""
    first = replace(RECORD, digest="sha256:snapshot")
    second = replace(first, spec=ContainerSpec(name="other"))
    with node.containers.starting(first, alone=True):
        with (
            pytest.raises(CloneRefused, match="web"),
            node.containers.starting(second, alone=True),
        ):
            pass
        with node.containers.starting(second):
            pass
    with node.containers.starting(second, alone=True):
        pass


def test_a_container_whose_mounts_cannot_be_taken_up_can_be_stopped(node, monkeypatch):
    ended = threading.Event()
    running, stopped = ContainerStatus("running", 7), ContainerStatus("stopped", 0, 137)
    life = containers_module.life
    monkeypatch.setattr(life, "status", lambda _: stopped if ended.is_set() else running)
    monkeypatch.setattr(life, "wait", lambda *_: (ended.wait(10), stopped)[1])
    monkeypatch.setattr(life, "stop", lambda *_, **__: ended.set())
    monkeypatch.setattr(life, "out_of_memory", lambda _: False)

    def mount(spec, *, read_ahead_kib):
        raise HotstartError("the filler does not answer")

    node.containers._tools = replace(
        node.containers._tools, images=SimpleNamespace(mount=mount), pages=None
    )
    held = HeldMount(SimpleNamespace(manifest="ab", to_json=dict), 32)
    record = replace(RECORD, stage="running", mounts=(held,))
    ContainerDirectory.of(node.root, "web").create()
    monkeypatch.setattr(node.state, "containers", lambda: {"web": record})
    node.containers.adopt({"ab"})
    assert node.containers.stop("web", grace_s=0).state == "stopped"


def test_a_container_that_cannot_be_recognised_can_be_stopped(node, monkeypatch):
    directory = ContainerDirectory.of(node.root, "web")
    directory.create()
    directory.process_file.symlink_to(node.root / "nowhere" / "full")  # nothing can be written

    def kill():
        directory.exit_file.write_text("137")

    node.kill = kill
    node.containers._tools = replace(node.containers._tools, pages=None)
    monkeypatch.setattr(containers_module.life, "out_of_memory", lambda _: False)
    monkeypatch.setattr(node.state, "containers", lambda: {"web": replace(RECORD, stage="running")})
    node.containers.adopt(())
    assert node.containers.stop("web", grace_s=0).exit_status == 137


def test_a_snapshot_is_refused_while_a_container_of_it_is_there(node):
    record = replace(RECORD, digest="sha256:snapshot")
    with node.containers.starting(record):
        node.containers.refuse_clones("sha256:other", "other:v1")
        with pytest.raises(CloneRefused, match="web"):
            node.containers.refuse_clones("sha256:snapshot", "snap:v1")
    node.containers.refuse_clones("sha256:snapshot", "snap:v1")


def test_a_container_that_an_earlier_agent_left_frozen_goes_on(node, monkeypatch):
    thawed = []
    monkeypatch.setattr(Node, "frozen", lambda _: True)
    monkeypatch.setattr(Node, "thaw", lambda _: thawed.append(True), raising=False)
    directory = ContainerDirectory.of(node.root, "web")
    directory.create()
    remember(ProcessIdentity.of(os.getpid()), directory.process_file)
    node.containers._tools = replace(node.containers._tools, pages=None)
    monkeypatch.setattr(node.state, "containers", lambda: {"web": replace(RECORD, stage="running")})
    node.containers.adopt(())
    assert thawed
