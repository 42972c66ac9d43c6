"""A start bundle: what was recorded is local before it is asked for, and nothing else is."""

import os

import pytest

from hotstart.core.digest import Digest
from hotstart.core.run import run
from hotstart.core.span import PAGE
from hotstart.store.bundle import BundleWriter
from hotstart.store.page_runs import Run
from hotstart.store.trace import first_touches
from lazyfs.plans import BundlePlan, EverythingPlan
from tests.lazyfs.node import Image, make_tree, running_node, tree_digest, wait_until

pytestmark = [pytest.mark.kernel]
READ_AHEAD_KIB = 32
START = 'cd "$1" && head -c 3000000 large >/dev/null && cat d1/* d3/* | sha256sum'


def start(path):
    """What the recorded program does."""
    return run(["sh", "-c", START, "sh", str(path)], timeout_s=60).text


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=24), root / "store")


@pytest.fixture(scope="module")
def plan(image, tmp_path_factory):
    """The bundle of one recorded start."""
    with (
        running_node(tmp_path_factory.mktemp("recorder")) as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
    ):
        node.mounts.wait(node.mounts.prefetch(image.spec.manifest, EverythingPlan()))
        with node.mounts.mount_recording(image.spec, read_ahead_kib=READ_AHEAD_KIB) as recording:
            start(recording.path)
            trace = recording.stop()
        writer = BundleWriter(trace.device_ids, frame_bytes=256 << 10)
        files = [os.open(node.cache.device_path(one), os.O_RDONLY) for one in trace.device_ids]
        for span in first_touches(trace.spans):
            content = os.pread(files[span.device], span.pages * PAGE, span.first_page * PAGE)
            writer.add(Run(span.device, span.first_page, span.pages), content)
        for file in files:
            os.close(file)
    content, index = writer.finish()
    image.store.blobs.put(Digest.of(content), content)
    return BundlePlan(Digest.of(content), index, image.store.url)


def stats(node, image):
    return node.worker.stats()[image.spec.devices[0].device_id]


def test_a_recorded_start_misses_nothing_once_the_bundle_is_here(tmp_path, image, plan):
    with running_node(tmp_path / "node") as node:
        node.mounts.prepare(image.spec)
        job = node.mounts.prefetch(image.spec.manifest, plan)
        with node.mounts.mount(image.spec, read_ahead_kib=READ_AHEAD_KIB) as mounted:
            node.mounts.wait(job)
            assert start(mounted.path) == start(image.source)
            after = stats(node, image)
            assert after["misses"] == 0
            assert after["fetched_bytes"] == plan.index.stored_bytes
            assert after["bytes_local"] < after["bytes_total"]


def test_a_start_beside_its_bundle_reads_right_and_fetches_nothing_twice(tmp_path, image, plan):
    with running_node(tmp_path / "node", "--slow-at", "fetched:5") as node:
        node.mounts.prepare(image.spec)
        job = node.mounts.prefetch(image.spec.manifest, plan)
        with node.mounts.mount(image.spec, read_ahead_kib=READ_AHEAD_KIB) as mounted:
            assert start(mounted.path) == start(image.source)
            node.mounts.wait(job)
            assert stats(node, image)["fetched_bytes"] == plan.index.stored_bytes


def test_a_start_whose_worker_is_killed_under_the_bundle_reads_right(tmp_path, image, plan):
    with running_node(tmp_path / "node", "--slow-at", "fetched:20") as node:
        node.mounts.prepare(image.spec)
        job = node.mounts.prefetch(image.spec.manifest, plan)
        with node.mounts.mount(image.spec, read_ahead_kib=READ_AHEAD_KIB) as mounted:
            pid = node.worker_pid()
            node.kill_worker()
            assert start(mounted.path) == start(image.source)
            wait_until(lambda: node.worker_pid() not in (None, pid))
            assert node.mounts.wait(job)["error"] is None
            assert tree_digest(mounted.path) == tree_digest(image.source)


def test_a_missing_bundle_costs_time_and_no_byte(tmp_path, image, plan):
    path = image.store_dir / "blobs" / "sha256" / plan.bundle.hex
    os.rename(path, f"{path}.away")
    try:
        with running_node(tmp_path / "node") as node:
            node.mounts.prepare(image.spec)
            node.mounts.prefetch(image.spec.manifest, plan)
            with node.mounts.mount(image.spec, read_ahead_kib=READ_AHEAD_KIB) as mounted:
                assert start(mounted.path) == start(image.source)
    finally:
        os.rename(f"{path}.away", path)
