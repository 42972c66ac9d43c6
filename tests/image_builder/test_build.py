"""Builds are deterministic, borrow from their base, and publish all or nothing."""

import os
import random
import threading

import pytest

from hotstart.core.errors import UserError
from hotstart.store.blob_store import StoreFull, StoreUnavailable
from hotstart.store.leased import leased
from hotstart.store.packs import PackWriter
from hotstart.store.publishing import current
from hotstart.store.references import ReferenceName
from image_builder import segments
from image_builder.build import build, publish
from image_builder.build_tree import build_tree
from image_builder.directory import scan
from image_builder.errors import LimitExceeded, SourceChanged, SourceInvalid
from image_builder.limits import Limits
from image_builder.options import BuildOptions
from image_builder.segments import GROUP_LIMIT, PIECE, BufferPool
from tests.fakes.faulty_store import FaultyBlobs
from tests.fakes.memory_store import memory_store
from tests.image_builder.last_pack import without_its_last_pack


def make_tree(root, seed=1, files=400):
    source = random.Random(seed)
    for number in range(files):
        directory = root / f"d{number % 17}"
        directory.mkdir(parents=True, exist_ok=True)
        size = source.choice([0, 10, 3000, 20_000, 90_000])
        (directory / f"f{number}").write_bytes(source.randbytes(size))
    (root / "weights").write_bytes(source.randbytes(2 * PIECE + 12_345))
    for path in sorted([root, *root.rglob("*")]):
        os.utime(path, ns=(0, 1_700_000_000_000_000_000))
    return root


class CountingSink:
    def __init__(self):
        self.events = []

    def update(self, event):
        self.events.append(event)


def test_the_image_depends_on_neither_threads_nor_place(tmp_path):
    first = make_tree(tmp_path / "a")
    second = make_tree(tmp_path / "somewhere" / "else")
    store = memory_store()
    digests = {
        build(str(path), store, reference="a:1", options=BuildOptions(threads=n)).descriptor.digest
        for path, n in ((first, 1), (first, 7), (second, 2))
    }
    assert len(digests) == 1


def test_a_rebuild_after_one_changed_file_uploads_little(tmp_path):
    tree = make_tree(tmp_path / "tree", files=1500)
    store = memory_store()
    first = build(str(tree), store, reference="app:1")
    (tree / "d3" / "new-file").write_bytes(random.Random(9).randbytes(30_000))
    with (tree / "weights").open("r+b") as file:
        file.seek(PIECE)
        file.write(b"changed")
    second = build(str(tree), store, reference="app:2", options=BuildOptions(base="app:1"))
    assert second.stats.uploaded_bytes < 0.03 * first.stats.uploaded_bytes
    assert second.stats.borrowed_chunks > 0
    named = {pack.digest for device in second.manifest.devices for pack in device.packs}
    assert all(store.blobs.has(digest) for digest in named)


def test_a_rebuild_holds_few_buffers_though_nothing_is_written(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree", files=600)
    store = memory_store()
    build(str(tree), store, reference="app:1")
    made = []
    monkeypatch.setattr(segments, "BATCH", 1)
    take = BufferPool.take
    monkeypatch.setattr(BufferPool, "take", lambda pool, n: made.append(pool) or take(pool, n))
    (tree / "d0" / "a-new-first-file").write_bytes(random.Random(8).randbytes(70_000))
    build(str(tree), store, reference="app:2", options=BuildOptions(base="app:1", threads=2))
    assert len(made) > 40
    assert made[0].made <= 10


def test_a_rebuild_compresses_only_what_is_new(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree", files=100)
    store = memory_store()
    build(str(tree), store, reference="app:1")
    compressed = []
    monkeypatch.setattr(segments, "compress", lambda c: compressed.append(bytes(c)) or (c, True))
    (tree / "a-new-file").write_bytes(random.Random(8).randbytes(70_000))
    stats = build(str(tree), store, reference="app:2", options=BuildOptions(base="app:1")).stats
    assert len(compressed) == stats.new_chunks > 0
    assert sum(map(len, compressed)) < 0.1 * stats.input_bytes


def test_equal_chunks_are_stored_once(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    content = random.Random(3).randbytes(300_000)
    (tree / "a").write_bytes(content)
    (tree / "b").write_bytes(content + b"tail")
    stats = build(str(tree), memory_store(), reference="a:1").stats
    assert stats.repeated_chunks > 0
    assert stats.uploaded_bytes < 500_000


def test_files_of_the_order_come_first_in_the_device(tmp_path):
    tree = make_tree(tmp_path / "tree")
    options = BuildOptions(order=(b"weights",), extents_for=(b"weights",))
    built = build_tree(scan(os.fsencode(tree)).tree, memory_store(), options=options)
    assert built.extents[b"weights"].offset == 0


def test_progress_ends_at_the_total(tmp_path):
    sink = CountingSink()
    build(str(make_tree(tmp_path / "tree")), memory_store(), reference="a:1", progress=sink)
    last = sink.events[-1]
    assert last.finished
    assert last.done == last.total > 2 * PIECE


@pytest.mark.parametrize("script", ["timeout", "ok timeout", "ok ok timeout", "ok ok ok timeout"])
def test_a_build_that_fails_leaves_the_reference_as_it_was(tmp_path, script):
    tree = make_tree(tmp_path / "tree", files=30)
    store = memory_store()
    before = build(str(tree), store, reference="a:1").descriptor
    (tree / "weights").write_bytes(random.Random(5).randbytes(GROUP_LIMIT))
    faulty = type(store)(
        store.url, FaultyBlobs(store.blobs, script), store.references, store.leases
    )
    with pytest.raises(StoreUnavailable):
        build(str(tree), faulty, reference="a:1")
    assert store.references.get(ReferenceName.parse("a:1")).target.digest == before.digest


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "moved"])
def test_a_build_whose_last_pack_is_not_stored_publishes_nothing(tmp_path, monkeypatch, is_there):
    """Packs are named before they are stored: table and bootstrap are there, the pack is not."""
    monkeypatch.setitem(PackWriter.__init__.__kwdefaults__, "target_size", PIECE)
    tree, name, store = make_tree(tmp_path / "tree"), ReferenceName.parse("a:1"), memory_store()
    whole = build(str(tree), memory_store(), reference="a:1")
    assert len(whole.manifest.devices[0].packs) > 3
    if is_there:
        build(str(make_tree(tmp_path / "other", seed=2, files=3)), store, reference="a:1")
    before = current(store, name)
    with pytest.raises(StoreFull):
        build(str(tree), without_its_last_pack(store, whole.manifest), reference="a:1")
    assert current(store, name) == before
    assert list(store.references.names()) == [name] * is_there
    assert store.leases.entries() == []
    assert not store.blobs.has(whole.descriptor.digest), "a manifest of what is not there"
    assert build(str(tree), store, reference="a:1").descriptor == whole.descriptor


def test_racing_builds_of_one_name_end_with_one_of_them(tmp_path):
    store = memory_store()
    results = [
        build(str(make_tree(tmp_path / str(n), seed=n, files=5)), store, reference=f"part:{n}")
        for n in range(4)
    ]
    name = ReferenceName.parse("app:1")

    def publish_one(descriptor):
        with leased(store) as writer:
            publish(writer, name, descriptor, [])

    threads = [
        threading.Thread(target=publish_one, args=(result.descriptor,)) for result in results
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target = store.references.get(name).target.digest
    assert target in {result.descriptor.digest for result in results}


def change_size(path):
    with path.open("ab") as file:
        file.write(b"more")


def replace(path):
    os.unlink(path)
    path.write_bytes(b"y" * 5000)


def make_link(path):
    os.unlink(path)
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("change", [change_size, replace, make_link, os.unlink])
def test_a_file_that_changes_after_the_scan_ends_the_build(tmp_path, change):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    tree = scan(os.fsencode(tmp_path)).tree
    change(path)
    with pytest.raises(SourceChanged, match="changed while it was being read"):
        build_tree(tree, memory_store())


def test_a_name_that_appears_after_the_scan_is_noticed(tmp_path):
    (tmp_path / "d").mkdir()
    found = scan(os.fsencode(tmp_path))
    found.check_directories()
    (tmp_path / "d" / "late").touch()
    with pytest.raises(SourceChanged):
        found.check_directories()


def test_the_source_may_be_reached_through_a_link(tmp_path):
    tree = make_tree(tmp_path / "tree", files=5)
    (tmp_path / "link").symlink_to("tree")
    store = memory_store()
    through = build(str(tmp_path / "link"), store, reference="a:1")
    assert through.descriptor == build(str(tree), store, reference="a:2").descriptor


@pytest.mark.kernel
def test_a_file_system_mounted_inside_the_source_is_refused(tmp_path):
    from hotstart.kernel.mounts import tmpfs, unmount

    (tmp_path / "inner").mkdir()
    tmpfs(tmp_path / "inner", mode=0o755, size_bytes=1 << 20)
    try:
        with pytest.raises(SourceInvalid, match="another file system is mounted here"):
            scan(os.fsencode(tmp_path))
    finally:
        unmount(tmp_path / "inner")


def test_small_files_lie_in_the_bootstrap_until_they_are_too_many(tmp_path, monkeypatch):
    for number in range(40):
        (tmp_path / f"s{number}").write_bytes(b"%d" % number * 500)
    assert build(str(tmp_path), memory_store(), reference="a:1").manifest.devices == ()
    monkeypatch.setattr("image_builder.build_tree.INLINE_TOTAL", 5000)
    assert build(str(tmp_path), memory_store(), reference="a:1").manifest.devices != ()


def test_a_tree_with_more_files_than_allowed_is_refused(tmp_path):
    make_tree(tmp_path, files=30)
    with pytest.raises(LimitExceeded, match="number of files"):
        scan(os.fsencode(tmp_path), Limits(entries=20))


@pytest.mark.parametrize(
    "options",
    [BuildOptions(environment=("NOVALUE",)), BuildOptions(workdir="relative")],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(UserError):
        build(str(tmp_path), memory_store(), reference="a:1", options=options)
