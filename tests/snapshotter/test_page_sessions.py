"""Sessions that cannot begin leave nothing open."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hotstart.core.errors import Conflict
from hotstart.core.span import PAGE
from snapshotter.page_sessions import PageSessions
from snapshotter.session_spec import MemoryFileSpec, SessionSpec


def test_a_session_whose_memory_cannot_be_opened_leaves_no_descriptor(tmp_path):
    there = tmp_path / "pages-1.img"
    there.write_bytes(bytes(PAGE))
    files = [MemoryFileSpec(str(path), PAGE) for path in (there, tmp_path / "absent")]
    sessions = PageSessions(None)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        sessions.open(SessionSpec("s", str(tmp_path), str(tmp_path), tuple(files)))
    assert len(os.listdir("/proc/self/fd")) == before
    assert sessions.names() == []
    sessions.stop()


def test_a_session_is_opened_once_however_often_it_is_asked_for(tmp_path):
    """A worker that ends before it has answered leaves the client to ask the next."""
    spec = SessionSpec("s", str(tmp_path), str(tmp_path), ())
    sessions = PageSessions(None)
    sessions._sessions["s"] = SimpleNamespace(spec=spec, is_alive=lambda: True)
    sessions.open(SessionSpec.from_json(spec.to_json()))
    with pytest.raises(Conflict):
        sessions.open(replace(spec, record=True))
    sessions._pool.shutdown()
