"""Programs of the system, replaced by fakes on PATH that keep their arguments."""

import pytest


@pytest.fixture
def fake_command(tmp_path, monkeypatch):
    """Put a shell script first on PATH; returns a reader of the words of each call."""
    folder = tmp_path / "fake-bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")

    def make(name, body="true"):
        calls = folder / f"{name}.calls"
        calls.write_text("")
        program = folder / name
        program.write_text(f'#!/bin/sh\nprintf "%s " "$@" >> {calls}\necho >> {calls}\n{body}\n')
        program.chmod(0o755)
        return lambda: [line.split() for line in calls.read_text().splitlines()]

    return make
