import os

from bench.environment import file_system_of, load_average
from bench.page_cache import read_tree


def test_a_tree_is_read_once_without_following_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/big").write_bytes(b"x" * 3_000_001)
    (tmp_path / "small").write_bytes(b"yz")
    (tmp_path / "link").symlink_to("a/big")
    (tmp_path / "folder").symlink_to("a")
    os.mkfifo(tmp_path / "fifo")
    assert read_tree(tmp_path) == 3_000_003


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount():
    assert file_system_of("/proc/self") == "proc"
    assert file_system_of("/dev/shm") == "tmpfs"


def test_three_loads_are_told():
    assert len(load_average()) == 3
