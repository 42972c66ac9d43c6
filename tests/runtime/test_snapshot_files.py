"""Writable layers merged: what the upper one takes away stays away."""

import os

import pytest

from runtime.container_directory import ContainerDirectory
from runtime.snapshot_files import (
    merge_lower_upper,
    remember_lower_upper,
    staged_files,
    write_criu_config,
)


@pytest.fixture
def directory(tmp_path):
    directory = ContainerDirectory.of(tmp_path, "web")
    directory.create()
    return directory


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_without_an_earlier_layer_nothing_changes(directory, tmp_path):
    with staged_files(tmp_path / "tmp") as files:
        put(files.upper / "a", "new")
        merge_lower_upper(directory, files)
        assert (files.upper / "a").read_text() == "new"


def test_the_newer_layer_is_added_and_replaces(directory, tmp_path):
    lower = tmp_path / "lower"
    put(lower / "kept/file", "old")
    put(lower / "changed", "old")
    put(lower / "was-a-directory/inner", "old")
    put(lower / "was-a-file", "old")
    remember_lower_upper(directory, lower)
    with staged_files(tmp_path / "tmp") as files:
        put(files.upper / "changed", "new")
        put(files.upper / "kept/more", "new")
        put(files.upper / "was-a-directory", "a file now")
        put(files.upper / "was-a-file/inner", "a directory now")
        merge_lower_upper(directory, files)
        read = {
            str(path.relative_to(files.upper)): path.read_text()
            for path in files.upper.rglob("*")
            if path.is_file()
        }
        assert sorted(os.listdir(files.path)) == ["dump", "shm", "upper"]
    assert read == {
        "changed": "new",
        "kept/file": "old",
        "kept/more": "new",
        "was-a-directory": "a file now",
        "was-a-file/inner": "a directory now",
    }
    assert (lower / "changed").read_text() == "old"


@pytest.mark.kernel
def test_an_opaque_directory_hides_what_lay_below_and_a_whiteout_stays(directory, tmp_path):
    lower = tmp_path / "lower"
    put(lower / "opaque/old", "old")
    put(lower / "gone", "old")
    remember_lower_upper(directory, lower)
    with staged_files(tmp_path / "tmp") as files:
        put(files.upper / "opaque/new", "new")
        os.setxattr(files.upper / "opaque", "trusted.overlay.opaque", b"y")
        os.mknod(files.upper / "gone", 0o20000, os.makedev(0, 0))
        merge_lower_upper(directory, files)
        assert os.listdir(files.upper / "opaque") == ["new"]
        assert os.getxattr(files.upper / "opaque", "trusted.overlay.opaque") == b"y"
        assert (files.upper / "gone").is_char_device()


def test_staging_leaves_nothing_behind(tmp_path, directory):
    with staged_files(tmp_path / "tmp") as files:
        files.write_hook(directory)
        put(files.dump / "pages-1.img", "x")
        assert not files.copied
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_dump_is_configured_with_its_hook_and_a_start_without(directory, tmp_path):
    assert "action-script" not in write_criu_config(directory).read_text()
    assert (
        f"action-script {tmp_path}/hook"
        in write_criu_config(directory, tmp_path / "hook").read_text()
    )
