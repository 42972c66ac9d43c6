"""Surroundings of misses: readers wait for none of them, and are no worse off whatever fails."""

import threading
import time

import pytest

from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import StoreDenied, StoreUnavailable
from lazyfs import prefetch_usage
from lazyfs.claims import Claims
from lazyfs.fault import Fault
from lazyfs.plans import EverythingPlan
from lazyfs.read_around import ReadAround
from lazyfs.surroundings import REQUEST_BYTES, THREADS, UNFINISHED, Surroundings
from tests.fakes.faulty_store import FaultyBlobs
from tests.lazyfs.node import wait_until
from tests.lazyfs.small_device import (
    CHUNK_PAGES,
    HeldBlobs,
    Reader,
    arrived,
    expected,
    held,
    prefetch,
    reads_of,
)

TASKS_A_REQUEST = 5
IN_SECOND_PACK = 16 * CHUNK_PAGES
"""A page whose chunk the first pack has no room for."""


@pytest.fixture
def device(small):
    with small.engine() as (_, device):
        yield device


def a_miss(device):
    return Fault(device, 5, 1, lambda _: None, 0.0)


def test_the_misses_of_a_storm_are_not_all_looked_around(device):
    release = threading.Event()

    class Stuck(ReadAround):
        def window(self, *words):
            release.wait(20)
            return super().window(*words)

    surroundings = Surroundings(Stuck(), Claims(), lambda _: None)
    for _ in range(10 * UNFINISHED):
        surroundings.of(a_miss(device), device.table().packs)
    assert surroundings._pool.unfinished == UNFINISHED
    release.set()
    surroundings.close()


def test_a_wide_window_is_not_queued_all_at_once(device):
    """Each request's worth of the window gives five tasks here, and none of them comes back."""
    release, stuck = threading.Event(), threading.Semaphore(0)

    class Wide(ReadAround):
        def window(self, *words):
            return Span(0, 8 * REQUEST_BYTES)

    class Scattered(Claims):
        def queue_unasked(self, *words, **options):
            return [object()] * TASKS_A_REQUEST

    def run(task):
        stuck.release()
        release.wait(20)

    surroundings = Surroundings(Wide(), Scattered(), run)
    surroundings.of(a_miss(device), device.table().packs)
    for _ in range(THREADS):
        assert stuck.acquire(timeout=20)
    assert UNFINISHED <= surroundings._pool.unfinished < UNFINISHED + TASKS_A_REQUEST
    surroundings.of(a_miss(device), device.table().packs)
    assert surroundings._pool.unfinished < UNFINISHED + TASKS_A_REQUEST
    release.set()
    wait_until(lambda: surroundings._pool.unfinished == 0)
    surroundings.close()


def test_what_follows_a_miss_is_queued_before_what_precedes_it(device):
    """The window may be cut, and programs read on."""
    asked, table = [], device.table()

    class Noted:
        packs = table.packs

        def between(self, span):
            asked.append(span)
            return []

    class Wide(ReadAround):
        def window(self, *words):
            return Span(0, 4 * REQUEST_BYTES + PAGE)

    device.table = Noted
    surroundings = Surroundings(Wide(), Claims(), lambda _: None)
    surroundings.of(Fault(device, 2 * REQUEST_BYTES // PAGE, 1, lambda _: None, 0.0), table.packs)
    wait_until(lambda: surroundings._pool.unfinished == 0)
    surroundings.close()
    assert [span.offset // REQUEST_BYTES for span in asked] == [2, 3, 4, 1, 0]
    assert sum(span.length for span in asked) == 4 * REQUEST_BYTES + PAGE


def test_what_a_bundle_brings_is_not_fetched_as_surroundings(small):
    """Of the chunks that it brings whole; here of the one from page 20 on."""
    plan = small.bundle([(20, 6)])
    blobs = held(small, {plan.bundle})
    with small.engine(blobs) as (engine, device):
        job = prefetch(engine, device, plan)
        arrived(blobs, 1)
        table = device.table()
        chunks = list(table.between(Span(16 * PAGE, 12 * PAGE)))
        assert [chunk.device_offset // PAGE for chunk in chunks] == [16, 20, 24]
        tasks = engine.claims.queue_unasked(device, chunks, table.packs)
        pieces = [piece for task in tasks for piece in task.pieces]
        assert [piece.targets[0].first_page for piece in pieces] == [16, 24]
        blobs.gate.set()
        assert job.done.wait(20)


def test_what_lies_around_a_miss_comes_with_it(small):
    with small.engine(around=ReadAround()) as (engine, device):
        assert Reader(engine, device, 5, 1).bytes() == expected(small, 5, 1)
        wait_until(lambda: device.ready.missing(20, 4) < 0)
        assert [Reader(engine, device, 20, 4).bytes()] == [expected(small, 20, 4)]


def test_where_hardly_anything_is_read_but_the_misses_nothing_comes_with_them(small, monkeypatch):
    monkeypatch.setattr(prefetch_usage, "JUDGED_BYTES", 0)
    with small.engine(around=ReadAround()) as (engine, device):
        device.usage.brought(40, 50)
        assert Reader(engine, device, 5, 1).bytes() == expected(small, 5, 1)
        wait_until(lambda: engine._surroundings._pool.unfinished == 0)
        assert device.ready.missing(20, 4) == 20
        device.usage.read(40, 4)
        assert Reader(engine, device, 10, 1).bytes() == expected(small, 10, 1)
        wait_until(lambda: device.ready.missing(20, 4) < 0)


def test_a_reader_does_not_wait_for_the_surroundings(small):
    blobs = held(small, {small.packs[1].digest})
    with small.engine(blobs, around=ReadAround()) as (engine, device):
        reader = Reader(engine, device, 5, 1)
        arrived(blobs, 1)  # the other pack, of which the miss needs nothing, is under way
        assert reader.bytes() == expected(small, 5, 1)
        assert not blobs.gate.is_set()
        blobs.gate.set()


class AwayOnce(HeldBlobs):
    """The first read that was held up fails; those after it are good and not held up."""

    def __init__(self, small, error):
        super().__init__(small.store.blobs)
        self._error = error
        self.held_blobs = {small.packs[1].digest}
        self.gate.clear()

    def read(self, digest, span=None):
        content = super().read(digest, span)
        if digest in self.held_blobs:
            self.held_blobs = set()
            raise self._error
        return content


@pytest.mark.parametrize("error", [StoreUnavailable("mem://", "away"), OSError(5, "I/O error")])
def test_a_reader_outlives_the_surroundings_that_it_has_joined(small, error):
    """Without patience: the reader has its own first try, whatever became of theirs."""
    blobs = AwayOnce(small, error)
    with small.engine(blobs, around=ReadAround(), patience_s=0) as (engine, device):
        assert Reader(engine, device, 5, 1).result() is None
        arrived(blobs, 1)
        joined = Reader(engine, device, IN_SECOND_PACK, 1)
        wait_until(lambda: joined_by_readers(device))
        blobs.gate.set()
        assert joined.bytes() == expected(small, IN_SECOND_PACK, 1)


def joined_by_readers(device):
    return any(piece.waiters for piece in list(device.chunks.values()))


def test_surroundings_are_not_tried_again(small):
    blobs = AwayOnce(small, StoreUnavailable("mem://", "away"))
    with small.engine(blobs, around=ReadAround()) as (engine, device):
        assert Reader(engine, device, 5, 1).result() is None
        arrived(blobs, 1)
        blobs.gate.set()
        wait_until(lambda: not device.chunks)
        assert len(reads_of(blobs, {small.packs[1].digest})) == 1
        assert device.counters.retries == 0


def test_a_pull_goes_on_with_surroundings_that_fail_once(small):
    blobs = AwayOnce(small, StoreUnavailable("mem://", "away"))
    with small.engine(blobs, around=ReadAround()) as (engine, device):
        assert Reader(engine, device, 5, 1).result() is None
        arrived(blobs, 1)
        job = prefetch(engine, device, EverythingPlan(), connections=1)
        wait_until(lambda: any(piece.task.ended for piece in list(device.chunks.values())))
        blobs.gate.set()
        assert job.done.wait(20)
        assert job.error is None
        assert device.all_ready()


def test_a_reader_has_its_own_patience_with_what_an_earlier_one_asked_for(small):
    """Both wait for one request; the earlier reader's time is over, the later one's is not."""
    blobs = AwayOnce(small, StoreUnavailable("mem://", "away"))
    with small.engine(blobs, patience_s=1000) as (engine, device):
        late, early = [], []
        since = time.monotonic()
        for answers, since_s in ((early, since - 2000), (late, since)):
            engine.request(Fault(device, IN_SECOND_PACK, 1, answers.append, since_s))
            wait_until(lambda n=since_s: waiters_of(device) == 1 + (n == since))
        blobs.gate.set()
        wait_until(lambda: early and late)
        assert isinstance(early[0], StoreUnavailable)
        assert late == [None]


def waiters_of(device):
    return sum(len(piece.waiters) for piece in list(device.chunks.values()))


def test_surroundings_whose_store_stumbles_harm_nobody(small):
    blobs = FaultyBlobs(small.store.blobs, "ok timeout timeout short ok")
    with small.engine(blobs, around=ReadAround()) as (engine, device):
        assert Reader(engine, device, 5, 1).bytes() == expected(small, 5, 1)
        assert Reader(engine, device, 20, 4).bytes() == expected(small, 20, 4)


def test_a_table_that_cannot_tell_the_surroundings_harms_no_reader(small):
    with small.engine(around=ReadAround()) as (engine, device):
        table = device.table()
        asked = []

        class Narrow:
            packs = table.packs

            def between(self, span):
                asked.append(span.length)
                if span.length > PAGE:
                    raise StoreDenied("mem://", "no more of the table")
                return table.between(span)

        device.table = Narrow
        assert Reader(engine, device, 5, 1).bytes() == expected(small, 5, 1)
        wait_until(lambda: any(length > PAGE for length in asked))
        assert Reader(engine, device, 20, 1).bytes() == expected(small, 20, 1)
