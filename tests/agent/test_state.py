"""The database keeps what it was told, all of it or nothing, and refuses what it can't read."""

import sqlite3

import pytest

from agent.state import MountRow, StartRow, State, StateVersionUnknown
from hotstart.core.errors import Conflict

MOUNT = MountRow("/mnt/a", "team/app:v1", "sha256:" + "a" * 64, "fanotify", 64, {"devices": []})
START = StartRow("web", "file:///store", "team/app:v1", "sha256:" + "a" * 64, "cold", {"pid": 7})


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state.db")
    yield state
    state.close()


def test_rows_survive_reopening(tmp_path):
    first = State(tmp_path / "state.db")
    first.put_mount(MOUNT)
    first.put_start(START)
    first.close()
    second = State(tmp_path / "state.db")
    assert second.mounts() == [MOUNT]
    assert second.starts() == {"web": START}
    second.close()


def test_second_mount_at_a_target_is_refused(state):
    state.put_mount(MOUNT)
    with pytest.raises(Conflict, match="/mnt/a"):
        state.put_mount(MOUNT)
    state.drop_mount(MOUNT.target)
    state.put_mount(MOUNT)
    assert state.mounts() == [MOUNT]


def test_a_reused_name_replaces_its_start(state):
    state.put_start(START)
    later = StartRow("web", "s3://b", "other:v2", "sha256:" + "b" * 64, "restore", {})
    state.put_start(later)
    assert state.starts() == {"web": later}
    state.drop_start("web")
    assert state.starts() == {}


def test_database_of_a_newer_program_is_refused(tmp_path):
    State(tmp_path / "state.db").close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateVersionUnknown, match="version 99"):
        State(tmp_path / "state.db")
