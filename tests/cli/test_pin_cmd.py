"""Pins and quotas from the command line; neither needs an agent."""

import json

import pytest

from agent import launch
from cli import main as cli_main
from cli.settings import Settings
from lazyfs.cache_quota import read_quota


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch.os, "geteuid", lambda: 0)

    def run(*words):
        status = cli_main.run(["--root", str(tmp_path / "root"), *words], Settings())
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def built(call, tmp_path):
    (tmp_path / "tree").mkdir()

    def build(content):
        (tmp_path / "tree" / "file").write_bytes(content * 5000)
        return call("build", str(tmp_path / "tree"), "-t", "app:v1")[1].strip()

    return build


def pinned(call):
    (row,) = json.loads(call("--json", "images")[1])["images"]
    return row["pinned"]


def test_a_pin_is_shown_until_it_is_taken_away(call, built):
    digest = built(b"one")
    assert pinned(call) is None
    assert call("pin", "app:v1")[:2] == (0, f"{digest}\n")
    assert pinned(call) == digest
    assert call("images")[1].splitlines()[1].endswith("yes")
    assert call("unpin", "app:v1")[0] == 0
    assert pinned(call) is None
    assert call("unpin", "app:v1")[0] == 101


def test_a_pin_stays_with_its_image_when_the_reference_moves(call, built):
    first = built(b"one")
    call("pin", "app:v1")
    second = built(b"two")
    assert pinned(call) == first
    assert f"at {first[:19]}" in call("images")[1]
    call("pin", "app:v1")
    assert pinned(call) == second


def test_what_is_not_there_cannot_be_pinned(call, built):
    built(b"one")
    assert call("pin", "other:v1")[0] == 101


def test_a_quota_that_is_none_is_a_usage_error_and_changes_nothing(call, tmp_path):
    status, _, err = call("agent", "start", "--cache-quota", "lots")
    assert status == 2
    assert "write 200g" in err
    assert read_quota(tmp_path / "root") is None
