"""Images through FUSE: what the kernel reads above is what was built, or EIO, never zeros."""

import contextlib
import errno
import hashlib
import os
import pathlib
import random
import re
import signal

import pytest

from hotstart.core.errors import Unavailable
from hotstart.core.run import run
from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.mounts import is_mounted, unmount
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.ready_map import ReadyMap
from hotstart.store.stack import Store
from image_builder.build import build
from lazyfs.device import Device
from lazyfs.fetcher import Fetcher
from lazyfs.fill_engine import FillEngine
from lazyfs.fuse_filler import FlatDevice, FlatFiles, FuseMountFailed
from lazyfs.spec import DeviceSpec
from lazyfs.stores import StorePool
from tests.fakes.built_images import bring_home
from tests.fakes.faulty_store import FaultyBlobs
from tests.fakes.memory_store import memory_store

pytestmark = [pytest.mark.kernel]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    source = random.Random(4)
    for number in range(40):
        (root / f"f{number}").write_bytes(source.randbytes(source.randrange(3000, 200_000)))
    (root / "large").write_bytes(source.randbytes(6_000_000))
    return root


@pytest.fixture(scope="module")
def image(tree):
    store = memory_store()
    return store, build(str(tree), store, reference="a:1").manifest


@contextlib.contextmanager
def served(image, directory, *, script="", patience_s=5.0):
    """Mount the image over FUSE in ``directory``; yield (mount point, device)."""
    store, manifest = image
    blobs = FaultyBlobs(store.blobs, script)
    spec = DeviceSpec.of(manifest.devices[0], store.url)
    home = bring_home(manifest, store, directory / "home")
    path = directory / "0.dev"
    with path.open("wb") as file:
        file.truncate(spec.size_bytes)
    ready = ReadyMap.open(directory / "0.ready", spec.device_id, spec.pages)
    device = Device(
        spec,
        os.open(path, os.O_RDWR),
        ready,
        lambda _spec: ChunkTable.open(store.blobs, manifest.devices[0]),
    )
    pool = StorePool(lambda _url: Store(store.url, blobs, store.references, store.leases))
    engine = FillEngine(Fetcher(pool), patience_s=patience_s)
    flat = FlatFiles([FlatDevice(device, engine)])
    (directory / "flat").mkdir()
    (directory / "mnt").mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(engine.close)
        stack.callback(flat.close)
        mount_erofs(
            home.bootstrap, directory / "mnt", flat.mount(directory / "flat"), may_loop=True
        )
        stack.callback(unmount, directory / "mnt")
        yield directory / "mnt", flat.devices[0]
    assert not is_mounted(directory / "flat")


def sums(root):
    """Digest of each file, by another process: this one serves the reads."""
    names = sorted(os.listdir(root))
    words = run(["sha256sum", "--", *names], cwd=root).text.split()
    return dict(zip(words[1::2], words[::2], strict=True))


def test_files_read_through_fuse_are_those_of_the_tree(image, tree, tmp_path):
    with served(image, tmp_path) as (root, flat):
        assert sums(root) == sums(tree)
        assert flat.device.counters.misses > 0
        misses = flat.device.counters.misses
        assert sums(root) == sums(tree)
        assert flat.device.counters.misses == misses


def test_only_what_is_read_is_fetched(image, tree, tmp_path):
    with served(image, tmp_path) as (root, flat):
        found = run(["sha256sum", "f1"], cwd=root).text.split()[0]
        assert found == hashlib.sha256((tree / "f1").read_bytes()).hexdigest()
        assert flat.device.ready.ready_pages() < flat.device.spec.pages / 2


def test_a_store_that_hesitates_is_asked_again(image, tree, tmp_path):
    with served(image, tmp_path, script="timeout short timeout") as (root, flat):
        assert sums(root) == sums(tree)
        assert flat.device.counters.retries > 0


def test_a_store_that_denies_gives_eio_and_a_later_read_succeeds(image, tree, tmp_path):
    # FUSE reads ahead, so one read of ours may be several requests of the kernel's.
    with served(image, tmp_path, script="denied " * 3, patience_s=0.1) as (root, flat):
        for _ in range(20):
            done = run(["sha256sum", "large"], cwd=root, check=False)
            if done.status == 0:
                break
            assert os.strerror(errno.EIO) in done.stderr.decode()
        assert flat.device.counters.errors > 0
        assert sums(root) == sums(tree)


def test_touches_are_logged_in_order(image, tmp_path):
    with served(image, tmp_path) as (root, flat):
        flat.touches.start()
        run(["sha256sum", "f3", "f1"], cwd=root)
        touched = flat.touches.stop()
        assert [first for _at, first, _pages in touched]


def test_a_target_that_is_no_directory_is_refused_with_the_reason(image, tmp_path):
    flat = FlatFiles([])
    with pytest.raises(FuseMountFailed) as caught:
        flat.mount(tmp_path / "missing")
    assert isinstance(caught.value, Unavailable)
    flat.close()


def test_an_ended_mount_leaves_broken_pipes_ignored(image, tmp_path):
    """libfuse undoes what Python set up: a later write to a gone client would end the process."""
    with served(image, tmp_path):
        pass
    status = pathlib.Path("/proc/self/status").read_text()
    ignored = int(re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)
    assert ignored >> (signal.SIGPIPE - 1) & 1
