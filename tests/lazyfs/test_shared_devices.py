"""Images that share a device, mounted and released by many: handles live exactly as long."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from hotstart.core.run import run
from hotstart.kernel.mounts import mounts_below
from image_builder.build import build
from image_builder.options import BuildOptions
from lazyfs.spec import MountSpec
from tests.lazyfs.node import Image, make_tree, running_node

pytestmark = [pytest.mark.kernel]
USERS, ROUNDS = 4, 12


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=6), root / "store")


@pytest.fixture(scope="module")
def specs(image):
    """Two images of one tree: other manifests, the same device."""
    options = BuildOptions(command=("other",))
    other = build(str(image.source), image.store, reference="other:1", options=options).manifest
    specs = image.spec, MountSpec.of(other, image.store.url)
    assert specs[0].manifest != specs[1].manifest
    assert specs[0].devices == specs[1].devices
    return specs


def test_two_images_fill_their_common_device_once(tmp_path, image, specs):
    with running_node(tmp_path / "node") as node:
        first = node.mounts.mount(specs[0], read_ahead_kib=64)
        run(["cat", str(first.path / "large")])
        fetched = node.worker.stats()[specs[0].devices[0].device_id]["fetched_bytes"]
        second = node.mounts.mount(specs[1], read_ahead_kib=64)
        first.release()
        argv = ["cmp", str(second.path / "large"), str(image.source / "large")]
        assert run(argv, check=False).status == 0
        assert node.worker.stats()[specs[0].devices[0].device_id]["fetched_bytes"] == fetched
        second.release()
        assert node.guard.names("fill") == []


def test_mounting_and_releasing_at_once_never_shows_zeros(tmp_path, image, specs):
    files = [path for path in image.source.rglob("f*") if path.is_file()]

    def use(node, seed):
        chance = random.Random(seed)
        for _ in range(ROUNDS):
            with node.mounts.mount(chance.choice(specs), read_ahead_kib=16) as mounted:
                for path in chance.sample(files, 3):
                    here = mounted.path / path.relative_to(image.source)
                    assert run(["cmp", str(here), str(path)], check=False).status == 0
        return True

    with running_node(tmp_path / "node") as node:
        with ThreadPoolExecutor(USERS) as pool:
            assert all(pool.map(lambda seed: use(node, seed), range(USERS)))
        assert node.mounts.stats() == [] or node.mounts.unmount_all() is None
        assert mounts_below(node.root) == []
        assert node.guard.names("fill") == []
