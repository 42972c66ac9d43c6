"""EROFS over FUSE on loop devices, the route before kernel 6.12; it can be taken on any."""

import errno
from contextlib import contextmanager
from pathlib import Path

import pytest

from hotstart.kernel import erofs
from hotstart.kernel.erofs import mount_erofs, set_read_ahead
from hotstart.kernel.mounts import mount as real_mount
from hotstart.kernel.mounts import mounts_at
from lazyfs.served_devices import FUSE
from tests.lazyfs.node import Image, make_tree, running_node, tree_digest, wait_until

pytestmark = pytest.mark.kernel


def only_block_devices(source, target, fstype, flags=0, options=""):
    """Mount as a kernel before 6.12 does: EROFS from a regular file is ENOTBLK."""
    if fstype == "erofs" and not Path(source).is_block_device():
        raise OSError(errno.ENOTBLK, "block device required", str(target))
    real_mount(source, target, fstype, flags, options)


@pytest.fixture
def old_kernel(monkeypatch):
    monkeypatch.setattr(erofs, "mount", only_block_devices)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return [
        Image(make_tree(root / f"tree{n}", megabytes=3, seed=n), root / f"store{n}")
        for n in range(3)
    ]


def loops():
    return {path.name for path in Path("/sys/block").glob("loop*") if (path / "loop").exists()}


@contextmanager
def mounted_all(node, images):
    uses = [node.mounts.mount(image.spec, read_ahead_kib=64) for image in images]
    try:
        yield uses
    finally:
        for use in uses:
            use.release()


def test_several_images_on_loop_devices_read_as_their_sources_and_leave_no_loop(
    old_kernel, images, tmp_path
):
    before = loops()
    with running_node(tmp_path / "node", filler=FUSE) as node:
        with mounted_all(node, images) as uses:
            for image, use in zip(images, uses, strict=True):
                (entry,) = mounts_at(use.path)
                assert entry.source.startswith("/dev/loop")
                assert {"ro", "nosuid", "nodev"} <= set(entry.options.split(","))
                assert tree_digest(use.path) == tree_digest(image.source)
        wait_until(lambda: loops() <= before)


def test_read_ahead_of_a_mount_on_loop_devices_is_that_of_its_devices(old_kernel, images, tmp_path):
    with (
        running_node(tmp_path / "node", filler=FUSE) as node,
        node.mounts.mount(images[0].spec, read_ahead_kib=64) as use,
    ):
        mounted = use._entry.mount
        assert mounted.bdis
        (entry,) = mounts_at(use.path)
        assert entry.device in mounted.bdis
        set_read_ahead(mounted, 16)
        assert Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").read_text() == "16\n"


def test_a_loop_device_is_not_taken_where_it_would_read_zeros(old_kernel, images, tmp_path):
    """Only above FUSE: a loop device bypasses the kernel's questions."""
    blob = images[0].store_dir / "blobs/sha256" / images[0].manifest.bootstrap.digest.hex
    before = loops()
    with pytest.raises(Exception, match="can't be mounted from a file here"):
        mount_erofs(blob, tmp_path)
    assert not mounts_at(tmp_path)
    assert loops() <= before
