"""mount(2) wrappers against the real kernel."""

import errno

import pytest

from hotstart.core.errors import UserError
from hotstart.kernel import mounts

pytestmark = pytest.mark.kernel


@pytest.fixture
def tmpfs(tmp_path):
    target = tmp_path / "with space, comma"
    target.mkdir()
    mounts.tmpfs(target, mode=0o755, size_bytes=1 << 20)
    yield target
    for entry in mounts.mounts_below(tmp_path):
        mounts.unmount(entry.target, detach=True)


def test_a_mounted_tmpfs_shows_in_the_table_under_its_unescaped_path(tmpfs):
    (entry,) = mounts.mounts_at(tmpfs)
    assert (entry.target, entry.fstype) == (str(tmpfs), "tmpfs")
    assert mounts.is_mounted(tmpfs)


def test_unmounting_twice_says_there_was_nothing(tmpfs):
    assert mounts.unmount_if_mounted(tmpfs)
    assert not mounts.unmount_if_mounted(tmpfs)


def test_a_read_only_bind_refuses_writes(tmpfs, tmp_path):
    view = tmp_path / "view"
    view.mkdir()
    mounts.bind(tmpfs, view, read_only=True)
    with pytest.raises(OSError, match="Read-only") as failed:
        (view / "file").write_text("x")
    assert failed.value.errno == errno.EROFS
    (entry,) = mounts.mounts_at(view)
    assert {"ro", "nosuid", "nodev"} <= set(entry.options.split(","))


def test_an_overlay_of_paths_with_separators_merges(tmpfs, tmp_path):
    for name in ("low:1", "up,2", "work"):
        (tmpfs / name).mkdir()
    (tmpfs / "low:1" / "a").write_text("lower")
    merged = tmp_path / "merged"
    merged.mkdir()
    mounts.overlay([tmpfs / "low:1"], tmpfs / "up,2", tmpfs / "work", merged)
    (merged / "b").write_text("new")
    assert (merged / "a").read_text() == "lower"
    assert (tmpfs / "up,2" / "b").read_text() == "new"
    assert next(e.target for e in mounts.mounts_below(tmp_path)) == str(merged)


def test_options_longer_than_a_page_are_refused_before_the_kernel_cuts_them(tmp_path):
    with pytest.raises(UserError, match="4095"):
        mounts.mount("none", tmp_path, "tmpfs", 0, "x" * 5000)


def test_a_failed_mount_names_its_target(tmp_path):
    with pytest.raises(OSError, match="mount tmpfs") as failed:
        mounts.mount("tmpfs", tmp_path / "missing", "tmpfs")
    assert failed.value.filename == str(tmp_path / "missing")
