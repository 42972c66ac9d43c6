"""The process that parses what a store gives can do little else."""

import shutil
from pathlib import Path

import pytest

from hotstart.kernel.privileges import CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN
from lazyfs.served_devices import FANOTIFY, FUSE
from tests.lazyfs.node import Image, make_tree, running_node, tree_digest

pytestmark = [pytest.mark.kernel]

READ = 1 << CAP_DAC_READ_SEARCH


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=1), root / "store")


def status(pid, task=""):
    lines = Path(f"/proc/{pid}/{task}status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: fields[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "NoNewPrivs")}


@pytest.mark.parametrize(
    ("filler", "wanted"), [(FANOTIFY, READ), (FUSE, READ | 1 << CAP_SYS_ADMIN)]
)
def test_no_thread_of_the_fill_worker_has_more_than_it_needs(tmp_path, image, filler, wanted):
    with (
        running_node(tmp_path / "node", filler=filler) as node,
        node.mounts.mount(image.spec, read_ahead_kib=64) as mounted,
    ):
        assert tree_digest(mounted.path) == tree_digest(image.source)
        pid = node.worker_pid()
        threads = [path.name for path in Path(f"/proc/{pid}/task").iterdir()]
        assert len(threads) > 4
        for thread in threads:
            have = status(pid, f"task/{thread}/")
            assert [have[name] for name in ("CapPrm", "CapEff", "CapBnd")] == [f"{wanted:016x}"] * 3
            assert int(have["CapInh"], 16) == 0
            assert have["NoNewPrivs"] == "1"


def test_a_store_of_another_owner_is_read_all_the_same(tmp_path, image):
    store = Path(image.store_dir)
    store.chmod(0o700)
    shutil.chown(store, 65534, 65534)
    try:
        with (
            running_node(tmp_path / "node") as node,
            node.mounts.mount(image.spec, read_ahead_kib=64) as mounted,
        ):
            assert tree_digest(mounted.path) == tree_digest(image.source)
    finally:
        shutil.chown(store, 0, 0)
