"""Relocations: their bytes, what they translate, and how readers find rewritten packs by them."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.span import Span
from hotstart.store import media_types, relocating
from hotstart.store.blob_store import BlobNotFound
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatVersionUnknown
from hotstart.store.references import ReferenceName
from hotstart.store.relocating import RelocatingBlobs
from hotstart.store.relocation import MAX_BYTES, MAX_RUNS, Relocation, RelocationInvalid, Run
from tests.contracts.blob_store import BlobStoreContract
from tests.fakes.memory_store import MemoryBlobs, MemoryReferences
from tests.store import samples
from tests.store.test_parsers import DERANDOMISED

PACK = bytes(range(200))
OLD = Digest.of(PACK)
KEPT = (Run(10, 20, 0), Run(50, 30, 20), Run(199, 1, 50))


def piece(run):
    return PACK[run.offset : run.offset + run.length]


NEW_PACK = b"".join(piece(run) for run in KEPT)
NEW = Digest.of(NEW_PACK)


class Counted:
    """Notes what is asked of the blobs below."""

    def __init__(self, inner):
        self.inner, self.reads = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, digest, span=None):
        self.reads.append(digest)
        return self.inner.read(digest, span)


class Rewritten:
    """A store whose pack was rewritten, and a reader of it."""

    def __init__(self):
        self.inner = Counted(MemoryBlobs())
        self.references = MemoryReferences()
        self.blobs = RelocatingBlobs(self.inner, self.references)
        self.inner.put(NEW, NEW_PACK)
        self.lead(Relocation(OLD, NEW, len(NEW_PACK), KEPT))

    def lead(self, relocation, content=None):
        content = content if content is not None else relocation.encode()
        target = Descriptor.of(media_types.RELOCATION, content)
        self.inner.put(target.digest, content)
        name = ReferenceName.relocation_of(OLD)
        try:
            version = self.references.get(name).version
        except Exception:
            version = None
        self.references.swap(name, target, version)
        return target

    def read(self, offset, length):
        return bytes(self.blobs.read(OLD, Span(offset, length)))


@pytest.fixture
def rewritten():
    return Rewritten()


class TestRelocatingBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self):
        self.inner = MemoryBlobs()
        return RelocatingBlobs(self.inner, MemoryReferences())

    def damage(self, blobs, digest, content):
        self.inner.contents[digest] = content


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=40))
@DERANDOMISED
def test_every_part_of_a_run_is_found_and_nothing_else_is(gaps_and_lengths):
    runs, offset, target = [], 0, 0
    for gap, length in gaps_and_lengths:
        runs.append(Run(offset + gap, length, target))
        offset, target = offset + gap + length, target + length
    relocation = Relocation(OLD, NEW, target, tuple(runs))
    assert Relocation.decode(relocation.encode()) == relocation
    source = random.Random(offset)
    for _ in range(60):
        span = Span(source.randrange(offset + 2), source.randint(1, 12))
        home = [r for r in runs if r.offset <= span.offset and span.end <= r.offset + r.length]
        place = relocation.translate(span)
        if not home:
            assert place is None
        else:
            assert place == Span(home[0].target + span.offset - home[0].offset, span.length)


@pytest.mark.parametrize(
    "change",
    [
        {"runs": ()},
        {"runs": (Run(0, 0, 0),)},
        {"runs": (Run(0, 10, 0), Run(9, 2, 10))},
        {"runs": (Run(20, 5, 0), Run(0, 5, 5))},
        {"runs": (Run(0, 10, 42),)},
        {"runs": (Run(1 << 50, 1, 0),)},
        {"runs": (Run(0, 1 << 63, 0),)},
        {"runs": (Run(0, -1, 0),)},
        {"runs": tuple(Run(n, 1, 0) for n in range(MAX_RUNS + 1))},
        {"target": OLD},
        {"target_size": 1 << 51},
    ],
)
def test_what_no_reader_takes_is_not_written(change):
    fields = {"source": OLD, "target": NEW, "target_size": 51, "runs": KEPT, **change}
    with pytest.raises(ValueError, match="cannot be encoded"):
        Relocation(**fields).encode()


def test_a_relocation_of_a_later_version_is_refused_by_name():
    content = bytearray(samples.relocation().encode())
    struct.pack_into("<H", content, 8, 2)
    with pytest.raises(FormatVersionUnknown, match="relocation: version 2"):
        Relocation.decode(bytes(content))


def test_the_most_runs_fit_the_most_bytes():
    most = Relocation(OLD, NEW, 1, tuple(Run(2 * n, 1, 0) for n in range(MAX_RUNS)))
    assert len(most.encode()) == MAX_BYTES


def test_what_was_kept_is_read_under_the_old_name(rewritten):
    for run in KEPT:
        assert rewritten.read(run.offset, run.length) == piece(run)
    assert rewritten.read(55, 3) == PACK[55:58]


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (9, 2), (30, 20), (29, 22), (190, 10)])
def test_what_was_not_kept_is_not_there(rewritten, offset, length):
    with pytest.raises(BlobNotFound, match=OLD.hex):
        rewritten.read(offset, length)


def test_the_pack_itself_counts_as_gone(rewritten):
    """A writer who has put it must learn that it is not there any more."""
    assert not rewritten.blobs.has(OLD)
    for call in (rewritten.blobs.read, rewritten.blobs.size, rewritten.blobs.remove):
        with pytest.raises(BlobNotFound):
            call(OLD)


def test_where_it_lies_is_looked_up_once(rewritten):
    rewritten.read(10, 5)
    rewritten.inner.reads.clear()
    rewritten.read(12, 5)
    assert rewritten.inner.reads == [NEW]


def test_a_second_rewriting_is_found_by_a_reader_who_remembers_the_first(rewritten):
    rewritten.read(50, 30)
    newer = PACK[60:80]
    rewritten.inner.put(Digest.of(newer), newer)
    rewritten.lead(Relocation(OLD, Digest.of(newer), 20, (Run(60, 20, 0),)))
    rewritten.inner.remove(NEW)
    assert rewritten.read(60, 20) == newer
    with pytest.raises(BlobNotFound):
        rewritten.read(50, 30)


def test_a_rewriting_between_the_two_looks_of_a_reader_is_found(rewritten, monkeypatch):
    newer = PACK[60:80]
    find = relocating.find_relocation

    def overtaken(*arguments):
        monkeypatch.setattr(relocating, "find_relocation", find)
        found = find(*arguments)
        rewritten.inner.put(Digest.of(newer), newer)
        rewritten.lead(Relocation(OLD, Digest.of(newer), 20, (Run(60, 20, 0),)))
        rewritten.inner.remove(NEW)
        return found

    monkeypatch.setattr(relocating, "find_relocation", overtaken)
    assert rewritten.read(60, 20) == newer


def test_a_pack_that_is_put_again_is_read_whole_though_a_relocation_was_remembered(rewritten):
    rewritten.read(10, 5)
    rewritten.inner.put(OLD, PACK)
    assert rewritten.read(0, 200) == PACK
    version = rewritten.references.get(ReferenceName.relocation_of(OLD)).version
    rewritten.references.remove(ReferenceName.relocation_of(OLD), version)
    rewritten.inner.remove(NEW)
    assert rewritten.read(10, 5) == PACK[10:15]


def test_a_pack_that_is_put_again_while_a_reader_looks_elsewhere_is_found(rewritten, monkeypatch):
    get = rewritten.references.get

    def put_meanwhile(name):
        rewritten.inner.put(OLD, PACK)
        rewritten.references.remove(name, get(name).version)
        return get(name)

    rewritten.references.get = put_meanwhile
    assert rewritten.read(0, 3) == PACK[:3]


@pytest.mark.parametrize(
    "document",
    [
        b"?",
        samples.relocation().encode(),
        bytes(MAX_BYTES + 1),
    ],
)
def test_a_relocation_that_is_none_of_this_pack_is_an_error_and_no_bytes(rewritten, document):
    rewritten.lead(None, document)
    with pytest.raises(RelocationInvalid):
        rewritten.read(10, 5)


def test_a_damaged_relocation_is_read_once_more_and_then_an_error(rewritten):
    target = rewritten.lead(Relocation(OLD, NEW, len(NEW_PACK), KEPT))
    good = rewritten.inner.contents[target.digest]
    rewritten.inner.contents[target.digest] = good[:-1] + b"\xff"
    with pytest.raises(DigestMismatch):
        rewritten.read(10, 5)
    assert rewritten.inner.reads.count(target.digest) == 2


def test_few_relocations_are_kept_in_memory(monkeypatch):
    monkeypatch.setattr(relocating, "KEPT_RUNS", 5)
    inner, references = MemoryBlobs(), MemoryReferences()
    blobs = RelocatingBlobs(inner, references)
    packs = [bytes([number]) * 10 for number in range(6)]
    for pack in packs:
        inner.put(Digest.of(pack[:6]), pack[:6])
        runs = (Run(0, 3, 0), Run(4, 3, 3))
        relocation = Relocation(Digest.of(pack), Digest.of(pack[:6]), 6, runs)
        target = Descriptor.of(media_types.RELOCATION, relocation.encode())
        inner.put(target.digest, relocation.encode())
        references.swap(ReferenceName.relocation_of(Digest.of(pack)), target, None)
        assert blobs.read(Digest.of(pack), Span(4, 3)) == pack[:3]
    assert list(blobs._kept) == [Digest.of(pack) for pack in packs[-2:]]
    assert blobs._kept_runs == 4
