"""The virtual environment is completed when its inputs change, and only then."""

import pytest

from tools import virtual_environment
from tools.virtual_environment import ensure


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout, and a python whose venv holds a pip that keeps its arguments."""
    calls = tmp_path / "calls"
    calls.touch()
    python = tmp_path / "python3"
    inner = (
        f'#!/bin/sh\\necho "$@" >> {calls}\\nmkdir -p bin; test -e {tmp_path}/broken && exit 1\\n'
    )
    inner += "touch .venv/bin/hotstart 2>/dev/null; exit 0\\n"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\nmkdir -p "$3/bin"\n'
        f'printf \'{inner}\' > "$3/bin/python"\nchmod +x "$3/bin/python"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(virtual_environment.sys, "executable", str(python))
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n")
    return root, lambda: calls.read_text().splitlines()


def test_the_package_is_installed_editable_with_its_extras(checkout):
    root, calls = checkout
    ensure(root)
    assert calls()[0] == f"-m venv {root}/.venv"
    assert calls()[-1].endswith("install -q --editable .[dev,bench]")


def test_a_second_run_does_nothing(checkout):
    root, calls = checkout
    ensure(root)
    before = calls()
    assert ensure(root).endswith("is up to date")
    assert calls() == before


def test_changed_dependencies_are_installed_into_the_same_environment(checkout):
    root, calls = checkout
    ensure(root)
    (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    before = len(calls())
    ensure(root)
    assert not any("venv" in call for call in calls()[before:])
    assert calls()[-1].endswith("--editable .[dev,bench]")


def test_an_environment_that_cannot_start_is_made_anew(checkout):
    root, calls = checkout
    ensure(root)
    (root / ".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    (root / ".venv/hotstart-stamp").write_text("older")
    before = len(calls())
    ensure(root)
    assert f"-m venv {root}/.venv" in calls()[before:]
