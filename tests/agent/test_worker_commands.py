"""Workers: what they are started with, and which credentials they get when an agent follows."""

import os

import pytest

from agent.parts import worker_commands
from hotstart.core.errors import UserError
from hotstart.core.run import run

OLD = {"AWS_ACCESS_KEY_ID": "old", "AWS_SESSION_TOKEN": "old", "AWS_CA_BUNDLE": "/old"}


def variables(tmp_path, environment):
    commands = worker_commands(tmp_path, environment)
    assert [command.kind for command in commands] == ["fill", "page"]
    return commands[0].following(OLD).env


@pytest.mark.parametrize("environment", [{}, {"AWS_CA_BUNDLE": "/new", "HOME": "/root"}])
def test_an_agent_without_credentials_leaves_those_in_use(tmp_path, environment):
    assert variables(tmp_path, environment).items() >= OLD.items()


def test_a_new_key_never_goes_with_an_old_session_token(tmp_path):
    env = variables(tmp_path, {"AWS_ACCESS_KEY_ID": "new", "AWS_SECRET_ACCESS_KEY": "new"})
    assert (env["AWS_ACCESS_KEY_ID"], env["AWS_SESSION_TOKEN"]) == ("new", "")


def test_a_profile_takes_the_place_of_a_key(tmp_path):
    env = variables(tmp_path, {"AWS_PROFILE": "team"})
    assert (env["AWS_PROFILE"], env["AWS_ACCESS_KEY_ID"]) == ("team", "")


def test_the_patience_of_an_agent_is_its_workers(tmp_path):
    assert variables(tmp_path, {"HOTSTART_PATIENCE": "2.50"})["HOTSTART_PATIENCE"] == "2.5"
    assert "HOTSTART_PATIENCE" not in variables(tmp_path, {})
    with pytest.raises(UserError, match="HOTSTART_PATIENCE='soon'"):
        worker_commands(tmp_path, {"HOTSTART_PATIENCE": "soon"})


def test_workers_import_nothing_from_where_they_are_started(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current directory')")
    for command in worker_commands(tmp_path, {}):
        env = {**os.environ, **command.env}
        assert "usage" in run([*command.argv, "--help"], env=env, cwd=tmp_path).text
