"""The fill engine reads packs that gc has rewritten: coalesced requests hold the right bytes."""

import random
from dataclasses import replace

import pytest

from hotstart.core.span import PAGE
from hotstart.store import rewrite
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.collect import Collector
from hotstart.store.relocating import RelocatingBlobs, find_relocation
from lazyfs.claims import Claims
from lazyfs.pieces import in_runs
from tests.fakes.memory_store import memory_store
from tests.store.small_images import Pack, content_of, image_of, name_it, piece, remove_name


class AbsentDevice:
    """A device of which nothing is there: what claims need to know of it."""

    class ready:
        missing = staticmethod(lambda first, pages: first)

    class spec:
        store_url = "memory:"

    def __init__(self):
        self.chunks, self.frames = {}, ()


def live_parts(source, pack):
    """A random quarter of a pack, for a few images; some chunks are needed by several."""
    for _ in range(source.randint(1, 3)):
        first = source.randrange(len(pack.numbers) - 8)
        numbers = pack.numbers[first : first + source.randint(1, 8)]
        yield tuple(n for n in numbers if source.random() < 0.8) or numbers[:1]


@pytest.mark.parametrize("seed", range(12))
def test_every_request_for_chunks_of_a_rewritten_pack_is_one_span_of_the_new_one(seed, monkeypatch):
    """Requests join only chunks that lie end to end, and those lie so in every later pack too."""
    monkeypatch.setattr(rewrite, "LEAST_FREED_BYTES", 0)
    source = random.Random(seed)
    model = memory_store()
    store = replace(model, blobs=RelocatingBlobs(model.blobs, model.references))
    packs = [Pack(tuple(range(n * 100, n * 100 + 80)), pages=1) for n in range(2)]
    images = {}
    for number, pack in enumerate(packs):
        for turn, numbers in enumerate(live_parts(source, pack)):
            images[f"i{number}-{turn}"] = image_of((pack, numbers), (packs[0], (0, 1, 5)))
    for text, image in images.items():
        name_it(store, text, image)
    assert Collector(store, grace_s=0).collect().rewritten.packs == 2
    _check_requests(store, images)
    # Half of the images go; what is left of the new packs may be rewritten again.
    monkeypatch.setattr(rewrite, "LIVE_SHARE", 1)
    for text in sorted(images)[::2]:
        remove_name(store, text)
        del images[text]
    Collector(store, grace_s=0).collect()
    _check_requests(store, images)


def _check_requests(store, images):
    numbers = {}
    for image in images.values():
        for pack, number in image.chunks:
            numbers[piece(number, pack.pages)] = number
    joined = 0
    for image in images.values():
        table = ChunkTable.open(store.blobs, image.device)
        for task in Claims().queue_chunks(AbsentDevice(), list(table), table.packs):
            relocation = find_relocation(store.blobs, store.references, task.blob)
            assert relocation.translate(task.span) is not None
            content = bytes(store.blobs.read(task.blob, task.span))
            for one in task.pieces:
                at = one.offset - task.span.offset
                assert content[at : at + PAGE] in numbers
            wanted = content_of(image)
            for run in in_runs(task):
                place = run[0].key[1]
                at = run[0].offset - task.span.offset
                length = sum(one.length for one in run)
                assert content[at : at + length] == wanted[place : place + length]
            joined += len(task.pieces) > 1
    assert joined
