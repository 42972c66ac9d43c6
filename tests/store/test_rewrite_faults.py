"""Rewriting a pack beside writers and other collectors, with damage, and with a death anywhere."""

from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from hotstart.core.digest import Digest
from hotstart.store import media_types
from hotstart.store.collect import Collector
from hotstart.store.descriptor import Descriptor
from hotstart.store.leased import Collected, leased
from hotstart.store.publishing import move
from hotstart.store.reach import CollectionStopped
from hotstart.store.references import ReferenceName
from hotstart.store.relocating import RelocatingBlobs
from tests.fakes.memory_store import memory_store
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


def test_what_a_writer_leases_is_kept_whole(store):
    mostly_dead(store)
    with leased(store, (WHOLE.manifest.descriptor().digest,)):
        assert gc(store).rewritten.packs == 0
        assert read_manifest(store, WHOLE.manifest) == content_of(WHOLE)
    with leased(store) as writer:
        OLD.put(writer.store)
        assert gc(store).rewritten.packs == 0
        assert store.blobs.has(OLD.digest)
    assert gc(store).rewritten.packs == 1


def test_a_relocation_that_another_collector_has_just_made_is_not_taken_for_superseded(store):
    """The listing of a collector may be older than what another one has rewritten since."""
    mostly_dead(store)
    late = Collector(store, grace_s=0)
    read_ahead = late._read_ahead

    def other_first(blobs, prepared):
        assert any(blob.digest == OLD.digest for blob in blobs)
        late._read_ahead = read_ahead
        assert gc(store).rewritten.packs == 1
        read_ahead(blobs, prepared)

    late._read_ahead = other_first
    late.collect()
    assert read_name(store, "few") == content_of(FEW)


def test_an_image_that_begins_to_need_more_before_the_pass_keeps_the_pack(store):
    mostly_dead(store)
    late = Collector(store, grace_s=0)
    prepare = late._prepare

    def overtaken(plans):
        prepared = prepare(plans)
        if prepared:
            name_it(store, "more", image_of((OLD, (7, 0))))
        return prepared

    late._prepare = overtaken
    assert late.collect().rewritten.packs == 0
    assert store.blobs.has(OLD.digest)
    assert read_name(store, "more") == content_of(image_of((OLD, (7, 0))))


def test_a_new_pack_that_another_collector_has_removed_is_not_led_to(store):
    mostly_dead(store)
    late = Collector(store, grace_s=0)
    prepare = late._prepare

    def overtaken(plans):
        prepared = prepare(plans)
        for rewrite in prepared:
            for digest in rewrite.blobs:
                store.blobs.remove(digest)
        return prepared

    late._prepare = overtaken
    assert late.collect().rewritten.packs == 0
    assert read_name(store, "few") == content_of(FEW)


@pytest.mark.parametrize("word", ["has", "put", "swap"])
def test_a_pass_that_lasts_too_long_while_it_publishes_removes_nothing(store, word):
    """Who has taken this collector for dead relies on the old pack by now."""
    mostly_dead(store)
    late_s = [0.0]
    part = store.references if word == "swap" else store.blobs
    late = Collector(store, grace_s=0, clock=lambda: late_s[0])
    publish = late._rewriter.publish

    answer = getattr(part, word)

    def answer_late(*arguments, **options):
        late_s[0] += 70.0
        return answer(*arguments, **options)

    def slowly(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part, word, answer_late)
            return publish(*arguments)

    late._rewriter.publish = slowly
    assert late.collect().rewritten.packs == 0
    assert store.blobs.has(OLD.digest)
    assert read_name(store, "few") == content_of(FEW)
    assert gc(store).rewritten.packs == 1
    assert read_name(store, "few") == content_of(FEW)


def test_a_damaged_pack_is_left_as_it_is(store):
    mostly_dead(store)
    inner = store.blobs._inner

    def read(digest, span=None, *, of=inner.read):
        content = of(digest, span)
        if digest == OLD.digest and span is None:
            digest.check(content[:-1] + b"?", "blob")
        return content

    inner.read = read
    assert gc(store).rewritten.packs == 0
    assert store.blobs.has(OLD.digest)


def test_a_pack_of_which_a_table_cannot_be_read_is_left_as_it_is(store):
    mostly_dead(store)
    name_it(store, "blind", image_of((OLD, (4,))))
    store.blobs.remove(image_of((OLD, (4,))).device.table.digest)
    assert gc(store).rewritten.packs == 0
    assert store.blobs.has(OLD.digest)


def test_a_pack_that_is_something_else_too_is_left_as_it_is(store):
    mostly_dead(store)
    manifest = replace(FEW.manifest, config=Descriptor.of(media_types.OCI_CONFIG, OLD.content))
    store.blobs.put(manifest.descriptor().digest, manifest.to_bytes())
    store.references.swap(ReferenceName("odd"), manifest.descriptor(), None)
    assert gc(store).rewritten.packs == 0
    assert store.blobs.has(OLD.digest)


def test_a_relocation_that_cannot_be_read_stops_the_collection(store):
    mostly_dead(store)
    gc(store)
    (name,) = relocations(store)
    store.blobs.remove(store.references.get(name).target.digest)
    store.blobs.put(Digest.of(b"garbage"), b"garbage")
    with pytest.raises(CollectionStopped, match=r"hotstart\.relocation/.*remove the images") as err:
        gc(store)
    assert "remove it" not in str(err.value)
    assert store.blobs.has(Digest.of(b"garbage"))


def test_a_reference_of_a_relocation_that_cannot_be_read_matters_while_its_pack_is_needed(store):
    mostly_dead(store)
    gc(store)
    (name,) = relocations(store)
    documents = store.references._documents
    documents[name] = documents[name].replace(b'"version":1', b'"version":7')
    with pytest.raises(CollectionStopped, match=r"hotstart\.relocation/.*upgrade"):
        gc(store)
    assert name in documents
    remove_name(store, "few")
    gc(store)
    assert stored_bytes(store) == 0
    assert not documents


def test_relocations_are_read_before_writers_wait(store):
    mostly_dead(store)
    gc(store)
    late = Collector(store, grace_s=0)
    seen = []
    run_pass = late._pass

    def then_count(*arguments, **options):
        seen.append(len(late._reach._relocations))
        return run_pass(*arguments, **options)

    late._pass = then_count
    late.collect()
    assert seen[0] == 1


class Death(BaseException):
    """Nobody catches it."""


@contextmanager
def death_after(model, changes):
    """Let the store change so many times, and then never again."""
    left = [changes]

    def dying(change):
        def call(*arguments, **options):
            if not left[0]:
                raise Death
            left[0] -= 1
            return change(*arguments, **options)

        return call

    parts = [(model.blobs, "put"), (model.blobs, "remove")]
    parts += [(model.references, "swap"), (model.references, "remove")]
    with pytest.MonkeyPatch.context() as patch:
        for part, word in parts:
            patch.setattr(part, word, dying(getattr(part, word)))
        yield


@pytest.mark.parametrize("again", [False, True], ids=["first rewriting", "second rewriting"])
def test_a_collector_that_dies_at_any_step_loses_nothing_and_the_next_one_finishes(again):
    """Each change of the store in turn is the last one that the collector makes."""
    big = Pack(tuple(range(30)))
    images = {"few": image_of((big, (1,))), "some": image_of((big, (2, 3, 4, 5)))}
    is_over, step = False, 0
    while not is_over:
        model = memory_store()
        store = replace(model, blobs=RelocatingBlobs(model.blobs, model.references))
        for text, image in {**images, "whole": image_of((big, range(30)))}.items():
            name_it(store, text, image)
        remove_name(store, "whole")
        kept = dict(images)
        if again:
            gc(store)
            remove_name(store, "some")
            del kept["some"]
        with suppress(Death), death_after(model, step):
            Collector(store, grace_s=0, removers=1).collect()
            is_over = True
        for text, image in kept.items():
            assert read_name(store, text) == content_of(image), step
        gc(store)
        for text, image in kept.items():
            assert read_name(store, text) == content_of(image), step
        assert len(relocations(store)) == 1
        assert stored_bytes(store) < (1 if again else 5) * PIECE + 5000, step
        step += 1
    assert step > 5


def test_a_writer_learns_what_a_rewriting_has_not_kept(store):
    """It borrows of an image that was garbage when the pack was rewritten."""
    mostly_dead(store)
    gc(store)
    kept, lost = image_of((OLD, (2,))), image_of((OLD, (2, 3)))
    with leased(store) as writer:
        for image, is_right in ((kept, True), (lost, False)):
            target = image.put(writer.store, packs=False)
            needed = image.manifest.blobs()
            if is_right:
                move(writer, ReferenceName("new"), target, needed)
                continue
            with pytest.raises(Collected, match=OLD.digest.hex):
                move(writer, ReferenceName("new"), target, needed)
    assert read_name(store, "new") == content_of(kept)
    # A pack that is gone altogether is missed as ever.
    with leased(store) as writer, pytest.raises(Collected):
        writer.confirm([Descriptor(media_types.PACK, Digest.of(b"x"), 1)])
