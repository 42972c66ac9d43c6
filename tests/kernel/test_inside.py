"""Files below a root that nobody trusts: no link, no fifo, no ``..`` leads out or hangs."""

import os

import pytest

from hotstart.kernel.inside import (
    make_inside,
    open_inside,
    read_inside,
    resolve_inside,
    write_inside,
)

pytestmark = pytest.mark.kernel


@pytest.fixture
def top(tmp_path):
    (tmp_path / "secret").write_text("outside")
    top = tmp_path / "top"
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "plain").write_text("inside")
    return top


@pytest.mark.parametrize(
    "target", ["../../secret", "/../../secret", "../../../../../../../../../etc/passwd"]
)
def test_links_stay_inside(top, target):
    (top / "etc" / "link").symlink_to(target)
    assert read_inside(top, "etc/link") is None


def test_absolute_link_means_the_top(top):
    (top / "etc" / "link").symlink_to("/etc/plain")
    assert read_inside(top, "/etc/link") == b"inside"
    assert read_inside(top, "../../etc/plain") == b"inside"


def test_only_regular_files_are_read(top):
    os.mkfifo(top / "fifo")
    (top / "loop").symlink_to("loop")
    for name in ("fifo", "etc", "loop", "absent", "etc/plain/below"):
        assert read_inside(top, name) is None


def test_no_more_than_the_limit_is_read(top):
    assert read_inside(top, "etc/plain", limit=3) == b"ins"


def test_writing_replaces_a_link_and_not_its_target(top, tmp_path):
    (top / "etc" / "hosts").symlink_to("../../secret")
    write_inside(top, "etc", "hosts", b"new")
    assert (top / "etc" / "hosts").read_bytes() == b"new"
    assert not (top / "etc" / "hosts").is_symlink()
    assert (tmp_path / "secret").read_text() == "outside"
    assert (top / "etc" / "hosts").stat().st_mode & 0o777 == 0o644


def test_directory_that_is_a_link_out_leads_nowhere(top, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (top / "out").symlink_to("../elsewhere")
    with pytest.raises(FileNotFoundError):
        write_inside(top, "out", "file", b"x")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_failed_write_leaves_nothing(top):
    (top / "etc" / "taken").mkdir()
    with pytest.raises(OSError, match="irectory"):
        write_inside(top, "etc", "taken", b"x")
    assert sorted(os.listdir(top / "etc")) == ["plain", "taken"]


def test_magic_links_are_refused(top):
    (top / "proc").symlink_to("/proc")
    with pytest.raises(OSError, match="openat2"):
        open_inside(top, "proc/self/root")


def test_a_path_is_resolved_as_from_inside_and_what_is_absent_stays_as_written(top):
    (top / "run").symlink_to("/etc")
    (top / "up").symlink_to("../../..")
    assert resolve_inside(top, "/run/plain") == "/etc/plain"
    assert resolve_inside(top, "/run//new/./deep/") == "/etc/new/deep"
    assert resolve_inside(top, "/up/etc") == "/etc"
    assert resolve_inside(top, "/none") == "/none"
    (top / "etc" / "loop").symlink_to("loop")
    assert resolve_inside(top, "/etc/loop/x") == "/etc/loop/x"


def test_what_is_made_lies_inside_and_what_is_there_stays(top, tmp_path):
    (top / "out").symlink_to(tmp_path)
    make_inside(top, "/etc/new/deep", directory=True)
    assert (top / "etc/new/deep").is_dir()
    make_inside(top, "etc/new/file", directory=False)
    assert (top / "etc/new/file").read_bytes() == b""
    make_inside(top, "etc/plain", directory=False)
    assert (top / "etc/plain").read_text() == "inside"
    with pytest.raises(OSError, match="out"):  # from inside, the link leads to nothing
        make_inside(top, "out/made", directory=True)
    assert not (tmp_path / "made").exists()
