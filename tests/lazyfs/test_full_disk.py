"""A full disk, for real: a small ext4 holds the node. Eviction, then ENOSPC for that reader alone.

What a reader sees: EROFS turns any failed read of its device into EIO for read(2) (and SIGBUS for
a mapping), so that ENOSPC, which the worker answers, is seen by whoever reads the device itself.
"""

import contextlib
import errno
import os

import pytest

from hotstart.core.run import run
from hotstart.store.layers import raw_digest
from lazyfs.eviction import Evictor
from lazyfs.plans import EverythingPlan
from lazyfs.room import room_server
from lazyfs.served_devices import FANOTIFY, FUSE
from tests.lazyfs.node import Image, make_tree, read_status, running_node, tree_digest

pytestmark = [pytest.mark.kernel]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return [
        Image(make_tree(root / f"tree{n}", megabytes=24, seed=n), root / "store", f"image:{n}")
        for n in range(2)
    ]


@pytest.fixture(params=[FANOTIFY, FUSE])
def node(small_file_system, request):
    with running_node(
        small_file_system / "node", "--patience-s", "0.3", filler=request.param
    ) as node:
        yield node


@contextlib.contextmanager
def evicting(node):
    server = room_server(node.run_dir, Evictor(node.root, node.mounts).make_room)
    try:
        yield
    finally:
        server.close()


def fill_disk(node, *, leave):
    """Take the disk but for ``leave`` bytes; returns the file."""
    found = os.statvfs(node.root)
    path = node.root / "ballast"
    with path.open("wb") as file:
        left = max(leave, 1 << 20)
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - left)
        file.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):
            while not leave:
                os.write(file.fileno(), bytes(4096))
    return path


def errors(node, image):
    return node.worker.stats()[image.spec.devices[0].device_id]["errors"]


def pull(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        node.mounts.wait(node.mounts.prefetch(image.spec.manifest, EverythingPlan()))


def test_a_fill_on_a_full_disk_evicts_and_goes_on(node, images):
    with evicting(node):
        pull(node, images[0])
        fill_disk(node, leave=16 << 20)
        with node.mounts.mount(images[1].spec, read_ahead_kib=64) as mounted:
            assert tree_digest(mounted.path) == tree_digest(images[1].source)
            assert errors(node, images[1]) == 0
        evicted = images[0].spec.devices[0].device_id
        assert not node.cache.device_path(evicted).exists()
        assert not node.cache.ready_path(evicted).exists()


def test_when_nothing_may_go_one_reader_fails_and_others_go_on(node, images):
    with (
        evicting(node),
        node.mounts.mount(images[0].spec, read_ahead_kib=64) as local,
        node.mounts.mount(images[1].spec, read_ahead_kib=64) as mounted,
    ):
        node.mounts.wait(node.mounts.prefetch(images[0].spec.manifest, EverythingPlan()))
        worker = node.worker_pid()
        ballast = fill_disk(node, leave=4 << 20)
        assert read_status(mounted.path / "large") != 0
        assert errors(node, images[1]) > 0
        # The reserve is whole: what is small can still be written.
        found = os.statvfs(node.root)
        assert found.f_bavail * found.f_frsize >= (1 << 20) - (256 << 10)
        run(["dd", "if=/dev/zero", f"of={node.root}/state", "bs=128k", "count=1", "conv=fsync"])
        assert tree_digest(local.path) == tree_digest(images[0].source)
        assert node.worker_pid() == worker, "the same worker goes on"
        ballast.unlink()
        os.sync()
        assert tree_digest(mounted.path) == tree_digest(images[1].source)


def test_a_disk_filled_to_its_last_block_kills_no_worker(node, images):
    """A store into a mapped hole would: the ready map gets its blocks first."""
    with evicting(node), node.mounts.mount(images[1].spec, read_ahead_kib=64) as mounted:
        worker = node.worker_pid()
        ballast = fill_disk(node, leave=0)
        assert read_status(mounted.path / "large") != 0
        assert node.worker_pid() == worker
        ballast.unlink()
        os.sync()
        assert tree_digest(mounted.path) == tree_digest(images[1].source)


def test_a_pull_on_a_full_disk_ends_with_the_reason(node, images):
    with evicting(node), node.mounts.mount(images[1].spec, read_ahead_kib=64):
        fill_disk(node, leave=4 << 20)
        with pytest.raises(Exception, match="no space is left for the cache"):
            node.mounts.wait(node.mounts.prefetch(images[1].spec.manifest, EverythingPlan()))


def test_while_no_agent_answers_readers_are_patient_with_a_full_disk(node, images):
    with node.mounts.mount(images[1].spec, read_ahead_kib=64) as mounted:
        fill_disk(node, leave=4 << 20)
        assert read_status(mounted.path / "large") != 0
        stats = node.worker.stats()[images[1].spec.devices[0].device_id]
        assert stats["retries"] > 0


READ = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    os.pread(fd, 4096, int(sys.argv[2]))
except OSError as err:
    sys.exit(err.errno)
"""


@pytest.mark.parametrize("node", [FANOTIFY], indirect=True)
def test_who_reads_the_device_sees_enospc_and_who_reads_the_mount_eio(node, images):
    (device,) = images[1].spec.devices
    with evicting(node), node.mounts.mount(images[1].spec, read_ahead_kib=0) as mounted:
        fill_disk(node, leave=0)
        argv = ["python3", "-c", READ]
        seen = [
            run([*argv, str(path), str(offset)], check=False).status
            for path, offset in (
                (node.cache.device_path(device.device_id), device.size_bytes - 4096),
                (mounted.path / "large", 0),
            )
        ]
        assert seen == [errno.ENOSPC, errno.EIO]


def test_a_bootstrap_that_does_not_fit_makes_room(small_file_system, images):
    with running_node(small_file_system / "node") as node:
        evictor = Evictor(node.root, node.mounts)
        node.cache.make_room = evictor.make_room
        pull(node, images[0])
        fill_disk(node, leave=0)
        path = node.cache.bootstrap(images[1].spec.bootstrap, images[1].store.blobs)
        assert path == node.cache.bootstrap_path(raw_digest(images[1].spec.bootstrap))
        assert not node.cache.device_path(images[0].spec.devices[0].device_id).exists()
