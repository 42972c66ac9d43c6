"""The database keeps what it was told, all of it or nothing, and refuses what it can't read."""

import sqlite3

import pytest

from agent.records import ContainerRecord, HeldMount
from agent.state import MountRow, State, StateVersionUnknown
from hotstart.core.errors import Conflict
from hotstart.store.descriptor import Descriptor
from lazyfs.spec import MountSpec
from runtime.container_spec import ContainerSpec, PortMapping
from runtime.containers import ContainerStatus
from runtime.links import Network

MOUNT = MountRow("/mnt/a", "team/app:v1", "sha256:" + "a" * 64, "fanotify", 64, {"devices": []})
BOOTSTRAP = Descriptor.of("application/x", b"bootstrap")
WEB = ContainerRecord(
    spec=ContainerSpec(name="web", ports=(PortMapping(80, 8080),), env=("A=b",)),
    stage="running",
    store_url="file:///store",
    reference="team/app:v1",
    digest="sha256:" + "a" * 64,
    image_reference="team/app:v1",
    image_digest="sha256:" + "a" * 64,
    route="cold",
    created_ns=7,
    argv=("/bin/app",),
    network=Network(3, "/netns/3", "10.0.0.3", ports=(PortMapping(80, 8080),)),
    mounts=(HeldMount(MountSpec("a" * 64, BOOTSTRAP, (), "file:///store"), 64),),
    session="s1",
)


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state.db")
    yield state
    state.close()


def test_rows_survive_reopening(tmp_path):
    first = State(tmp_path / "state.db")
    first.put_mount(MOUNT)
    first.put_container(WEB)
    first.close()
    second = State(tmp_path / "state.db")
    assert second.mounts() == [MOUNT]
    assert second.containers() == {"web": WEB}
    second.close()


def test_second_mount_at_a_target_is_refused(state):
    state.put_mount(MOUNT)
    with pytest.raises(Conflict, match="/mnt/a"):
        state.put_mount(MOUNT)
    state.drop_mount(MOUNT.target)
    state.put_mount(MOUNT)
    assert state.mounts() == [MOUNT]


def test_an_ended_container_holds_nothing_and_replaces_the_running_one(state):
    state.put_container(WEB)
    ended = WEB.ended(ContainerStatus("stopped", 0, 137, "", 9), "out of memory")
    state.put_container(ended)
    (found,) = state.containers().values()
    assert found == ended
    assert (found.network, found.mounts, found.session) == (None, (), "")
    shown = found.view(None)
    assert (shown.state, shown.exit_status, shown.reason) == ("stopped", 137, "out of memory")
    state.drop_container("web")
    assert state.containers() == {}


def test_database_of_a_newer_program_is_refused(tmp_path):
    State(tmp_path / "state.db").close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateVersionUnknown, match="version 99"):
        State(tmp_path / "state.db")
