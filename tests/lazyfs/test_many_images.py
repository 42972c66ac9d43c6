"""Hundreds of images are mounted at once, more than a user has fanotify groups by default."""

import os

import pytest

from hotstart.core.run import run
from tests.lazyfs.node import Image, running_node, tree_digest, wait_until

IMAGES = 300


@pytest.mark.kernel
@pytest.mark.soak
def test_three_hundred_images_live_through_the_death_of_worker_and_keeper(tmp_path):
    images = [make_image(tmp_path, number) for number in range(IMAGES)]
    with running_node(tmp_path / "node", idle_limit=IMAGES) as node:
        mounted = [node.mounts.mount(image.spec, read_ahead_kib=64) for image in images]
        descriptors = len(os.listdir(f"/proc/{node.worker_pid()}/fd"))
        assert descriptors > 3 * IMAGES
        check(images[::3], mounted[::3])
        before = node.worker_pid()
        node.kill_worker()
        wait_until(lambda: node.worker_pid() not in (None, before))
        check(images[1::3], mounted[1::3])
        node.kill_keeper()
        check(images[2::3], mounted[2::3])
        node.abandon()
        node.start()
        assert node.mounts.adopt() == IMAGES
        assert run(["cat", str(mounted[0].path / "name")]).text == "0"
        node.mounts.unmount_all()
        assert node.guard.names("fill") == []


def make_image(tmp_path, number):
    tree = tmp_path / f"tree{number}"
    tree.mkdir()
    (tree / "name").write_text(str(number))
    (tree / "content").write_bytes(os.urandom(20_000))
    return Image(tree, tmp_path / "store", f"image:{number}")


def check(images, mounted):
    for image, mount in zip(images, mounted, strict=True):
        assert tree_digest(mount.path) == tree_digest(image.source)
