"""Which packs gc rewrites, what is read under their names then, and what becomes of them."""

import pytest

from hotstart.core.span import Span
from hotstart.store import collect
from hotstart.store.blob_store import BlobNotFound
from hotstart.store.collect import Collector, Rewritten
from hotstart.store.references import ReferenceName
from hotstart.store.relocating import find_relocation
from hotstart.store.stack import open_store
from tests.store.small_images import (
    FEW,
    OLD,
    PIECE,
    WHOLE,
    Pack,
    content_of,
    gc,
    image_of,
    mostly_dead,
    name_it,
    read_manifest,
    read_name,
    relocations,
    remove_name,
    rewritable_store,
    stored_bytes,
)


@pytest.fixture
def store():
    return rewritable_store()


def test_what_is_live_of_a_mostly_dead_pack_is_kept_and_the_rest_is_free(store):
    mostly_dead(store)
    before = stored_bytes(store)
    found = gc(store)
    assert found.rewritten == Rewritten(1, 8 * PIECE, 6 * PIECE)
    assert not store.blobs.has(OLD.digest)
    assert before - stored_bytes(store) > 6 * PIECE
    assert read_name(store, "few") == content_of(FEW)
    assert gc(store).rewritten == Rewritten()
    assert read_name(store, "few") == content_of(FEW)


def test_chunks_that_lay_end_to_end_are_read_by_one_request_still(store):
    mostly_dead(store)
    gc(store)
    together = store.blobs.read(OLD.digest, Span(PIECE, 2 * PIECE))
    assert bytes(together) == content_of(FEW)


def test_manifests_tables_and_names_of_images_are_not_touched(store):
    mostly_dead(store)
    reference = store.references.get(ReferenceName("few"))
    gc(store)
    assert store.references.get(ReferenceName("few")) == reference
    assert read_manifest(store, FEW.manifest) == content_of(FEW)


def test_a_dry_run_tells_what_a_run_then_does(store):
    mostly_dead(store)
    before = set(store.blobs.digests())
    told = Collector(store, grace_s=0).collect(dry_run=True)
    assert set(store.blobs.digests()) == before
    assert relocations(store) == []
    done = gc(store)
    assert (told.rewritten, told.removed) == (done.rewritten, done.removed)


@pytest.mark.parametrize(("numbers", "packs"), [((1, 2, 3), 0), ((1, 2), 1)])
def test_a_pack_is_rewritten_below_a_third_and_not_above(store, numbers, packs):
    name_it(store, "few", image_of((OLD, numbers)))
    assert gc(store).rewritten.packs == packs


def test_little_gain_is_not_worth_the_requests_of_readers(store):
    small = Pack(tuple(range(8)), pages=1)
    name_it(store, "few", image_of((small, (1,))))
    assert gc(store).rewritten.packs == 0
    assert store.blobs.has(small.digest)


def test_parts_that_several_images_need_are_all_kept(store):
    names = {"a": image_of((OLD, (5,))), "b": image_of((OLD, (1,)))}
    for text, image in names.items():
        name_it(store, text, image)
    assert gc(store).rewritten.packs == 1
    for text, image in names.items():
        assert read_name(store, text) == content_of(image)


def test_a_pack_or_an_image_younger_than_the_grace_keeps_it_whole(store):
    name_it(store, "few", FEW)
    assert Collector(store, grace_s=1000).collect().rewritten.packs == 0
    name_it(store, "few", FEW)
    for _ in range(2000):
        store.leases.write("tick", b"")
    store.leases.remove("tick")
    WHOLE.put(store, packs=False)  # a young manifest that no name has
    assert Collector(store, grace_s=1000).collect().rewritten.packs == 0
    assert read_manifest(store, WHOLE.manifest) == content_of(WHOLE)
    for _ in range(2000):
        store.leases.write("tick", b"")
    store.leases.remove("tick")
    assert Collector(store, grace_s=1000).collect().rewritten.packs == 1


def test_rewriting_again_leads_every_name_to_the_newest_pack(store):
    """No chains: a name that was led somewhere is led on when that goes."""
    parts = {"a": (0,), "b": (1,), "c": (2, 3, 4, 5, 6)}
    big = Pack(tuple(range(30)))
    for text, numbers in parts.items():
        name_it(store, text, image_of((big, numbers)))
    assert gc(store).rewritten.packs == 1
    first = find_relocation(store.blobs, store.references, big.digest)
    for text in parts:  # readers who remember where it lay
        read_name(store, text)
    remove_name(store, "c")
    assert gc(store).rewritten.packs == 1
    second = find_relocation(store.blobs, store.references, big.digest)
    assert len(relocations(store)) == 1
    assert not store.blobs.has(first.target)
    assert second.target_size == 2 * PIECE
    for text in ("a", "b"):
        assert read_name(store, text) == content_of(image_of((big, parts[text])))


def test_two_packs_with_the_same_live_part_share_the_new_one_and_go_on_together(store):
    one, two = Pack((0, 1, 2, 3, 90, *range(10, 20))), Pack((1, 2, 3, 0, 91, *range(30, 40)))
    name_it(store, "one", image_of((one, (1, 2, 3))))
    name_it(store, "two", image_of((two, (1, 2, 3))))
    name_it(store, "tail", image_of((one, (1,)), (two, (1,))))
    assert gc(store).rewritten.packs == 2
    shared = {find_relocation(store.blobs, store.references, p.digest).target for p in (one, two)}
    assert len(shared) == 1
    remove_name(store, "one")
    remove_name(store, "two")
    # Exactly a third of the shared pack is live.
    assert gc(store).rewritten.packs == 0
    assert read_name(store, "tail") == content_of(image_of((one, (1,)), (two, (1,))))


def test_a_shared_new_pack_that_dies_mostly_is_led_on_from_all_its_names(store):
    live = tuple(range(8))
    one, two = Pack((*live, *range(20, 60))), Pack((*range(60, 100), *live))
    for text, pack in (("one", one), ("two", two)):
        name_it(store, text, image_of((pack, live)))
        name_it(store, f"tail-{text}", image_of((pack, (3,))))
    assert gc(store).rewritten.packs == 2
    remove_name(store, "one")
    remove_name(store, "two")
    assert gc(store).rewritten.packs == 1
    for pack in (one, two):
        found = find_relocation(store.blobs, store.references, pack.digest)
        assert found.target_size == PIECE
    assert read_name(store, "tail-one") == content_of(image_of((one, (3,))))
    assert read_name(store, "tail-two") == content_of(image_of((two, (3,))))


def test_relocations_go_with_the_last_image_that_needs_the_pack(store):
    mostly_dead(store)
    gc(store)
    remove_name(store, "few")
    gc(store)
    assert list(store.references.names()) == []
    assert list(store.blobs.digests()) == []


def test_a_pack_that_is_put_again_makes_its_relocation_garbage(store):
    mostly_dead(store)
    gc(store)
    read_name(store, "few")
    name_it(store, "whole", WHOLE)
    found = gc(store)
    assert found.rewritten.packs == 0
    assert relocations(store) == []
    assert stored_bytes(store) < 10 * PIECE
    assert read_name(store, "whole") == content_of(WHOLE)
    assert read_name(store, "few") == content_of(FEW)


def test_many_packs_are_rewritten_in_several_passes(store, monkeypatch):
    monkeypatch.setattr(collect, "REWRITES", 2)
    packs = [Pack(tuple(range(n, n + 8))) for n in range(0, 56, 8)]
    image = image_of(*((pack, (pack.numbers[3],)) for pack in packs))
    name_it(store, "many", image)
    assert gc(store).rewritten.packs == 7
    assert read_name(store, "many") == content_of(image)


def test_a_directory_store_really_shrinks(tmp_path):
    store = open_store(str(tmp_path / "store"))
    mostly_dead(store)

    def used():
        return sum(p.stat().st_blocks * 512 for p in (tmp_path / "store").rglob("*"))

    before = used()
    freed = gc(store).rewritten.freed_bytes
    assert before - used() > 0.9 * freed
    again = open_store(str(tmp_path / "store"))
    assert read_name(again, "few") == content_of(FEW)
    with pytest.raises(BlobNotFound):
        again.blobs.read(OLD.digest, Span(0, PIECE))
