"""What is wrong in the cache is found, and repaired under readers and without them."""

import os

import pytest

from hotstart.core.progress import NullSink
from hotstart.core.run import run
from hotstart.core.span import PAGE
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.ready_map import ReadyMap
from lazyfs.cache_check import CacheCheck
from lazyfs.plans import EverythingPlan
from lazyfs.served_devices import FANOTIFY, FUSE
from tests.faults.rows import fault_row
from tests.lazyfs.node import Image, make_tree, running_node, tree_digest

pytestmark = [pytest.mark.kernel]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=3), root / "store")


@pytest.fixture
def node(tmp_path, request):
    with running_node(tmp_path / "node", filler=getattr(request, "param", FANOTIFY)) as node:
        yield node


def device_of(image):
    return image.spec.devices[0].device_id


def table_of(image):
    return ChunkTable.open(image.store.blobs, image.manifest.devices[0])


def fill(node, image):
    node.mounts.wait(node.mounts.prefetch(image.spec.manifest, EverythingPlan()))


def spoil(node, image, chunks):
    """Write wrong bytes into the file as a bad disk would, past every hook: by its own descriptor.

    The guard's was opened before the mark.
    """
    held = node.guard.get(f"device/{device_of(image)}")
    fd = held.fds[0] if held else os.open(node.cache.device_path(device_of(image)), os.O_WRONLY)
    for chunk in chunks:
        os.pwrite(fd, b"wrong" * 10, chunk.device_offset + 100)
    if not held:
        os.close(fd)


def check(node, image, device_ids=None):
    return CacheCheck(node.root, image.store.blobs, NullSink()).check(device_ids)


def test_a_cache_that_is_right_is_found_right(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        fill(node, image)
        report = check(node, image)
    assert (report.devices, report.wrong) == (1, 0)
    assert report.chunks == len(table_of(image))
    assert check(node, image, []).devices == 0


@fault_row(
    "a chunk in the cache has gone wrong", "the right bytes after `hotstart verify`, on a mount too"
)
@pytest.mark.parametrize("node", [FANOTIFY, FUSE], indirect=True)
def test_wrong_chunks_are_repaired_under_a_mount_and_its_readers_see_it(node, image):
    chunks = list(table_of(image))[::3]
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        fill(node, image)
        spoil(node, image, chunks)
        assert tree_digest(mounted.path) != tree_digest(image.source)
        report = check(node, image)
        assert report.repaired == report.wrong == len(chunks)
        assert report.mounts == [str(mounted.path)]
        assert tree_digest(mounted.path) == tree_digest(image.source)
        assert check(node, image).wrong == 0


def test_an_incomplete_device_is_compared_as_far_as_it_is_here(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=0) as mounted:
        run(["head", "-c", "4096", str(mounted.path / "large")])
        report = check(node, image)
        assert 0 < report.chunks < len(table_of(image))
        assert report.wrong == 0
        # Still marked: what the check reads and writes raises events, and is let through.
        spoil(node, image, [_first_local(node, image)])
        assert check(node, image).repaired == 1
        assert tree_digest(mounted.path) == tree_digest(image.source)


def _first_local(node, image):
    ready_path = node.cache.ready_path(device_of(image))
    with ReadyMap.open(ready_path, device_of(image), image.spec.devices[0].pages) as ready:
        return next(
            chunk
            for chunk in table_of(image)
            if ready.missing(chunk.device_offset // PAGE, chunk.length // PAGE) < 0
        )


def without_packs(image):
    blobs = image.store_dir / "blobs" / "sha256"
    for pack in image.manifest.devices[0].packs:
        path = blobs / pack.digest.hex
        yield path, path.with_name(f".{path.name}.away")


@pytest.fixture
def no_packs(image):
    moved = list(without_packs(image))
    for path, away in moved:
        os.rename(path, away)

    def back():
        for path, away in moved:
            if away.exists():
                os.rename(away, path)

    yield back
    back()


def test_what_cannot_be_repaired_of_an_unused_device_is_fetched_by_its_next_reader(
    node, image, request
):
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        fill(node, image)
    chunk = list(table_of(image))[2]
    spoil(node, image, [chunk])
    back = request.getfixturevalue("no_packs")
    report = check(node, image)
    assert (report.repaired, report.dropped, report.unrepaired) == (0, 1, [])
    ready_path = node.cache.ready_path(device_of(image))
    with ReadyMap.open(ready_path, device_of(image), image.spec.devices[0].pages) as ready:
        assert ready.missing(0, ready.pages) == chunk.device_offset // PAGE
    back()
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        assert tree_digest(mounted.path) == tree_digest(image.source)


def test_what_cannot_be_repaired_under_a_mount_is_told_and_left(node, image, request):
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        fill(node, image)
        spoil(node, image, list(table_of(image))[:1])
        back = request.getfixturevalue("no_packs")
        report = check(node, image)
        assert (report.repaired, report.dropped) == (0, 0)
        assert "in use" in report.unrepaired[0]
        back()
        assert check(node, image).repaired == 1


def test_a_device_of_another_store_is_named(node, image, tmp_path):
    other = Image(make_tree(tmp_path / "tree", megabytes=1, seed=5), tmp_path / "store")
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        report = check(node, other)
    assert report.unknown == [device_of(image)]
