"""A build with a trace lays out what starts touched together, in the order of the touches."""

import random

import pytest

from hotstart.core.errors import NotFound
from hotstart.core.span import PAGE
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.references import ReferenceNotFound
from hotstart.store.trace import Trace, TraceSpan
from hotstart.store.traces import NothingRecorded, add_trace, read_trace
from image_builder.build import build
from image_builder.options import BuildOptions
from image_builder.touched_chunks import TouchedChunks
from tests.fakes.memory_store import memory_store

FILES = 8
SIZE = 600_000


@pytest.fixture
def tree(tmp_path):
    source = random.Random(4)
    for number in range(FILES):
        content = source.randbytes(SIZE // 2) * 2
        (tmp_path / f"file-{number}").write_bytes(content[: SIZE + number])
    return tmp_path


def first_image(tree, store):
    """Build the tree and record touches of single pages all over it, back to front."""
    image = build(str(tree), store, reference="app:1")
    (device,) = image.manifest.devices
    pages = range(device.size_bytes // PAGE - 1, 0, -37)
    spans = tuple(TraceSpan(10 * at, 0, page, 1) for at, page in enumerate(pages))
    trace = Trace((device.device_id,), spans)
    add_trace(store, image.descriptor.digest, trace, image.manifest.devices)
    return image, trace


def chunks_of(store, image):
    (device,) = image.manifest.devices
    return device, list(ChunkTable.open(store.blobs, device))


def page_of(store, device, chunks, page):
    """Return the digest of the chunk that holds a page, and the page's number in it."""
    for chunk in chunks:
        if chunk.device_offset <= page * PAGE < chunk.device_offset + chunk.length:
            return chunk.digest, page - chunk.device_offset // PAGE
    raise AssertionError(page)


def test_touched_chunks_lie_together_in_the_order_of_their_touches(tree):
    store = memory_store()
    old, trace = first_image(tree, store)
    new = build(str(tree), store, reference="app:2", options=BuildOptions(trace="app:1"))
    old_device, old_chunks = chunks_of(store, old)
    _, new_chunks = chunks_of(store, new)
    wanted = list(
        dict.fromkeys(page_of(store, old_device, old_chunks, s.first_page)[0] for s in trace.spans)
    )
    place = {chunk.digest: chunk for chunk in new_chunks}
    laid = [place[digest] for digest in wanted]
    assert 3 < len(laid) < len(place)
    assert len({chunk.pack for chunk in laid}) == 1
    position = 0
    for chunk in laid:
        assert chunk.pack_offset == position
        position += chunk.stored_length
    others = {chunk.pack for chunk in new_chunks if chunk.digest not in set(wanted)}
    assert laid[0].pack not in others
    assert [c.digest for c in old_chunks] == [c.digest for c in new_chunks]


def test_the_new_image_has_the_trace_of_the_same_bytes_before_its_first_start(tree):
    store = memory_store()
    old, trace = first_image(tree, store)
    (tree / "a-new-first-file").write_bytes(random.Random(5).randbytes(300_000))
    new = build(str(tree), store, reference="app:2", options=BuildOptions(trace="app:1"))
    found = read_trace(store, new.descriptor.digest)
    old_device, old_chunks = chunks_of(store, old)
    new_device, new_chunks = chunks_of(store, new)
    assert found.device_ids == (new_device.device_id,)
    assert new_device.device_id != old_device.device_id
    before = [(s.at_ms, page_of(store, old_device, old_chunks, s.first_page)) for s in trace.spans]
    after = [(s.at_ms, page_of(store, new_device, new_chunks, s.first_page)) for s in found.spans]
    assert before == after


def test_touched_chunks_are_written_anew_though_the_base_has_them(tree):
    store = memory_store()
    old, _ = first_image(tree, store)
    options = BuildOptions(trace="app:1", base="app:1")
    new = build(str(tree), store, reference="app:2", options=options)
    assert new.stats.new_chunks > 3
    assert new.stats.borrowed_chunks > 0
    assert new.stats.uploaded_bytes < old.stats.uploaded_bytes
    device, chunks = chunks_of(store, new)
    touched = TouchedChunks.of(
        store.blobs, old.manifest.devices, read_trace(store, old.descriptor.digest)
    )
    old_packs = {pack.digest for pack in old.manifest.devices[0].packs}
    for chunk in chunks:
        borrowed = device.packs[chunk.pack].digest in old_packs
        assert borrowed == (chunk.digest not in touched)


def test_touched_bytes_that_have_changed_are_laid_out_like_any_others(tree):
    store = memory_store()
    first_image(tree, store)
    for path in tree.iterdir():
        path.write_bytes(random.Random(path.name).randbytes(SIZE))
    new = build(str(tree), store, reference="app:2", options=BuildOptions(trace="app:1"))
    assert read_trace(store, new.descriptor.digest) is None


def test_what_is_held_in_memory_is_bounded(tree):
    store = memory_store()
    old, trace = first_image(tree, store)
    all_of_it = TouchedChunks.of(store.blobs, old.manifest.devices, trace)
    some = TouchedChunks.of(store.blobs, old.manifest.devices, trace, limit=400_000)
    assert 0 < len(list(some)) < len(list(all_of_it))
    _, chunks = chunks_of(store, old)
    stored = {chunk.digest: chunk.stored_length for chunk in chunks}
    assert sum(stored[digest] for digest in some) <= 400_000


def test_the_layout_depends_on_no_number_of_threads(tree):
    store = memory_store()
    first_image(tree, store)
    digests = {
        build(
            str(tree), store, reference="app:2", options=BuildOptions(trace="app:1", threads=n)
        ).descriptor.digest
        for n in (1, 5)
    }
    assert len(digests) == 1


def test_an_image_that_never_started_is_named_and_nothing_is_published(tree):
    store = memory_store()
    build(str(tree), store, reference="app:1")
    with pytest.raises(NothingRecorded, match="app:1: no start of this image is recorded"):
        build(str(tree), store, reference="app:2", options=BuildOptions(trace="app:1"))
    with pytest.raises(ReferenceNotFound):
        build(str(tree), store, reference="app:2", options=BuildOptions(trace="none:1"))
    with pytest.raises(NotFound):
        build(str(tree), store, reference="app:3", options=BuildOptions(base="app:2"))
