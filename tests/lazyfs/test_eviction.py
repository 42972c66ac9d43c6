"""The cache's quota: least recently used first, never what is used or pinned, whole or not."""

import itertools
import os
import shutil

import pytest

from hotstart.core.run import run
from hotstart.kernel.mounts import is_mounted, mounts_below
from lazyfs.cache_contents import scan
from lazyfs.cache_quota import parse_quota, read_quota, write_quota
from lazyfs.eviction import Evictor
from lazyfs.pins import Pin, Pins
from lazyfs.plans import EverythingPlan
from tests.lazyfs.node import Image, Node, make_tree, running_node, tree_digest

pytestmark = [pytest.mark.kernel]

COUNT = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return [
        Image(make_tree(root / f"tree{n}", megabytes=2, seed=n), root / "store", f"image:{n}")
        for n in range(COUNT)
    ]


@pytest.fixture
def node(tmp_path):
    with running_node(tmp_path / "node") as node:
        yield node


def pull(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        assert node.mounts.wait(node.mounts.prefetch(image.spec.manifest, EverythingPlan()))


def here(node, image):
    """What the cache has of an image: its device, its map, its bootstrap."""
    (device,) = image.spec.devices
    bootstrap = node.cache.bootstrap_path(image.manifest_bootstrap)
    paths = (
        node.cache.device_path(device.device_id),
        node.cache.ready_path(device.device_id),
        bootstrap,
    )
    return [path.exists() for path in paths]


@pytest.fixture(autouse=True)
def bootstraps(images):
    from hotstart.store.layers import raw_digest

    for image in images:
        image.manifest_bootstrap = raw_digest(image.spec.bootstrap)


def allocated(node):
    return scan(node.root / "cache").allocated_bytes


def local(node, image):
    return all(here(node, image))


def set_quota(node, quota):
    write_quota(node.root, quota)
    return Evictor(node.root, node.mounts).enforce_quota()


def test_space_is_counted_as_the_disk_counts_it(node, images):
    pull(node, images[0])
    words = run(["du", "-s", "--block-size=1", str(node.root / "cache")]).text.split()
    directories = sum(os.stat(path).st_blocks * 512 for path, _, _ in os.walk(node.root / "cache"))
    assert allocated(node) == int(words[0]) - directories


def test_without_a_quota_everything_stays(node, images):
    pull(node, images[0])
    before = allocated(node)
    use = Evictor(node.root, node.mounts).enforce_quota()
    assert (use.allocated_bytes, use.evicted_bytes) == (before, 0)


def test_the_image_unused_longest_goes_first_and_whole(node, images):
    for image in images:
        pull(node, image)
    with node.mounts.mount(images[0].spec, read_ahead_kib=64):
        pass  # used again: now the second is the one unused longest
    use = set_quota(node, allocated(node) - 1)
    assert [here(node, image) for image in images] == [[True] * 3, [False] * 3, [True] * 3]
    assert use.evicted_bytes > 1 << 20
    assert not use.over_quota


def test_the_order_of_use_survives_the_agent(tmp_path, images):
    with running_node(tmp_path / "node") as node:
        for image in (images[2], images[0], images[1]):
            pull(node, image)
        node.abandon()
        successor = Node(node.root)
        try:
            successor.mounts.adopt()
            set_quota(successor, allocated(successor) - 1)
            assert [local(successor, image) for image in images] == [True, True, False]
        finally:
            successor.close()


def test_what_is_mounted_never_goes_and_reads_go_on_beyond_the_quota(node, images, caplog):
    with node.mounts.mount(images[0].spec, read_ahead_kib=64) as mounted:
        pull(node, images[1])
        write_quota(node.root, 1)
        evictor = Evictor(node.root, node.mounts)
        for _ in range(3):
            assert evictor.enforce_quota().over_quota
        assert caplog.text.count("cache_over_quota") == 1
        assert tree_digest(mounted.path) == tree_digest(images[0].source)
    assert not local(node, images[1])


def test_a_pinned_image_never_goes(node, images):
    for image in images:
        pull(node, image)
    pins = Pins(node.root)
    pins.put(Pin.of("file:///store", "image:0", images[0].manifest))
    set_quota(node, 1)
    assert [local(node, image) for image in images] == [True, False, False]
    pins.drop("file:///store", "image:0")
    set_quota(node, 1)
    assert not local(node, images[0])
    assert allocated(node) == 0


def test_an_idle_mount_is_ended_for_the_quota_and_a_busy_one_is_not(tmp_path, images):
    with running_node(tmp_path / "node", idle_limit=8) as node:
        pull(node, images[0])
        pull(node, images[1])
        busy = node.root / "mounts" / images[0].spec.manifest
        idle = node.root / "mounts" / images[1].spec.manifest
        assert is_mounted(idle)
        held = os.open(busy / "large", os.O_PATH)
        try:
            set_quota(node, 1)
        finally:
            os.close(held)
        assert local(node, images[0])
        assert is_mounted(busy)
        assert not is_mounted(idle)
        assert not local(node, images[1])
        set_quota(node, 1)
        assert not local(node, images[0])
        assert not mounts_below(node.root)


def test_a_device_that_a_start_has_prepared_never_goes(node, images):
    pull(node, images[0])
    node.mounts.prepare(images[0].spec)
    set_quota(node, 1)
    assert local(node, images[0])
    node.mounts.unmount_all()
    set_quota(node, 1)
    assert not local(node, images[0])


def test_an_eviction_that_is_killed_anywhere_leaves_nothing_that_is_believed(node, images):
    """Each prefix of what it removes; all that a map then vouches for reads as its source."""
    pull(node, images[0])
    (entry,) = scan(node.root / "cache").entries
    saved = node.root / "saved"
    shutil.copytree(node.root / "cache", saved, copy_function=shutil.copy2)
    for count in range(len(entry.paths) + 1):
        for path in itertools.islice(entry.paths, count):
            path.unlink()
        with node.mounts.mount(images[0].spec, read_ahead_kib=64) as mounted:
            assert tree_digest(mounted.path) == tree_digest(images[0].source)
        shutil.copytree(saved, node.root / "cache", dirs_exist_ok=True)
        os.sync()


def test_what_a_killed_eviction_left_goes_first(node, images):
    for image in images:
        pull(node, image)
    newest = images[2].spec.devices[0].device_id
    node.cache.ready_path(newest).unlink()
    first = scan(node.root / "cache").entries[0]
    assert (first.name, first.partial) == (newest, True)
    set_quota(node, allocated(node) - 1)
    assert [local(node, image) for image in images] == [True, True, False]


def test_an_image_that_was_evicted_is_fetched_again(node, images):
    pull(node, images[0])
    assert node.mounts.removals == 0
    set_quota(node, 1)
    assert node.mounts.removals == 1  # who remembers what has arrived must know
    set_quota(node, None)
    with node.mounts.mount(images[0].spec, read_ahead_kib=64) as mounted:
        assert tree_digest(mounted.path) == tree_digest(images[0].source)
    assert local(node, images[0])


def test_quotas_have_units_and_stay(tmp_path):
    assert [parse_quota(text) for text in ("2g", "512M", "1 ", "3TiB", "none")] == [
        2 << 30,
        512 << 20,
        1,
        3 << 40,
        None,
    ]
    write_quota(tmp_path, 7)
    assert read_quota(tmp_path) == 7
    write_quota(tmp_path, None)
    assert read_quota(tmp_path) is None
