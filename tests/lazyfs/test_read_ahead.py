"""Read-ahead over a real engine: readers find what they come to, random ones cause nothing."""

import threading

import pytest

from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import StoreUnavailable
from hotstart.store.trace import Trace, TraceSpan
from lazyfs import read_ahead, streams
from lazyfs.claims import Claims
from lazyfs.pieces import State
from lazyfs.plans import EverythingPlan, TracePlan, plan_from_json, plan_to_json
from tests.fakes.faulty_store import FaultyBlobs
from tests.lazyfs.node import wait_until
from tests.lazyfs.small_device import (
    CHUNK_PAGES,
    CHUNKS,
    HeldBlobs,
    Reader,
    arrived,
    expected,
    held,
    prefetch,
    reads_of,
)


@pytest.fixture(autouse=True)
def soon_proven(monkeypatch):
    monkeypatch.setattr(streams, "PROVEN_BYTES", 3 * CHUNK_PAGES * PAGE)


def read(engine, device, first, pages):
    """Do what the adapters do with an access; return its reader if something was absent."""
    missed = device.ready.missing(first, pages) >= 0
    engine.accessed(device, first, pages, missed=missed)
    return Reader(engine, device, first, pages) if missed else None


def read_through(engine, device, chunks):
    for number in chunks:
        reader = read(engine, device, number * CHUNK_PAGES, CHUNK_PAGES)
        assert reader is None or reader.result() is None


def is_local(device, chunk):
    return device.ready.missing(chunk * CHUNK_PAGES, CHUNK_PAGES) < 0


def test_a_sequential_reader_finds_what_it_comes_to(small):
    with small.engine(read_ahead=True) as (engine, device):
        read_through(engine, device, range(3))
        wait_until(lambda: is_local(device, 10))
        assert Reader(engine, device, 40, 4).bytes() == expected(small, 40, 4)


def test_a_random_reader_causes_no_fetch_but_its_own(small):
    blobs = HeldBlobs(small.store.blobs)
    order = [17, 3, 11, 22, 8, 1, 14, 19, 5]
    with small.engine(blobs, read_ahead=True) as (engine, device):
        read_through(engine, device, order)
        fetched = sum(span.length for span in reads_of(blobs, small.pack_digests()))
    assert fetched == len(order) * CHUNK_PAGES * PAGE
    assert device.counters.to_json()["prefetched_bytes"] == 0


def test_a_reader_of_what_a_bundle_brought_causes_no_fetch(small):
    plan = small.bundle([(0, 7 * CHUNK_PAGES)])
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs, read_ahead=True) as (engine, device):
        assert prefetch(engine, device, plan).done.wait(20)
        read_through(engine, device, range(7))
        assert reads_of(blobs, small.pack_digests()) == []


def test_neighbouring_chunks_come_in_large_requests(small):
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs, read_ahead=True) as (engine, device):
        read_through(engine, device, range(3))
        wait_until(lambda: is_local(device, 14))
        ahead = reads_of(blobs, small.pack_digests())[3:]
    assert max(span.length for span in ahead) >= 5 * CHUNK_PAGES * PAGE


def test_what_was_prefetched_and_read_is_told_apart_from_what_was_not(small):
    with small.engine(read_ahead=True) as (engine, device):
        read_through(engine, device, range(3))
        wait_until(lambda: is_local(device, 14))
        wait_until(lambda: not device.chunks)
        read_through(engine, device, range(3, 5))
        counted = device.counters.to_json()
    chunk = CHUNK_PAGES * PAGE
    assert counted["prefetch_used_bytes"] == 2 * chunk
    assert counted["prefetched_bytes"] >= 11 * chunk
    unused = counted["prefetched_bytes"] - counted["prefetch_used_bytes"]
    assert counted["prefetch_unused_bytes"] == unused


def test_a_reader_that_joins_what_is_on_its_way_has_used_it(small):
    blobs = held(small, set())
    with small.engine(blobs, read_ahead=True) as (engine, device):
        read_through(engine, device, range(2))
        blobs.gate.clear()
        blobs.held_blobs = small.pack_digests()
        last = read(engine, device, 2 * CHUNK_PAGES, CHUNK_PAGES)
        wait_until(lambda: len(device.chunks) > 2)
        joined = read(engine, device, 3 * CHUNK_PAGES, CHUNK_PAGES)
        blobs.gate.set()
        assert joined.bytes() == expected(small, 3 * CHUNK_PAGES, CHUNK_PAGES)
        assert last.result() is None
        wait_until(lambda: not device.chunks)
        assert device.usage.unused_bytes == device.usage.prefetched_bytes - device.usage.used_bytes


def test_a_pull_is_no_guess(small):
    with small.engine(read_ahead=True) as (engine, device):
        assert prefetch(engine, device, EverythingPlan()).done.wait(20)
        assert device.usage.prefetched_bytes == 0


def test_a_fault_does_not_wait_for_read_ahead(small):
    """What is stuck is ahead of another reader; the fault elsewhere has its own request."""
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs, read_ahead=True) as (engine, device):
        read_through(engine, device, range(2))
        blobs.gate.clear()
        blobs.held_blobs = {small.packs[0].digest}
        stuck = read(engine, device, 2 * CHUNK_PAGES, CHUNK_PAGES)
        arrived(blobs, 1)
        last = small.spec.pages - 1
        assert Reader(engine, device, last, 1).bytes() == expected(small, last, 1)
        assert not stuck.done.is_set()
        blobs.gate.set()
        assert stuck.result() is None


def test_a_store_that_stumbles_under_read_ahead_harms_no_reader(small):
    blobs = FaultyBlobs(small.store.blobs, "ok ok ok ok timeout short timeout ok")
    with small.engine(blobs, read_ahead=True) as (engine, device):
        for number in range(CHUNKS):
            reader = read(engine, device, number * CHUNK_PAGES, CHUNK_PAGES)
            if reader is not None:
                assert reader.bytes() == expected(small, number * CHUNK_PAGES, CHUNK_PAGES)
        assert device.counters.errors == 0


def test_with_too_much_unused_nothing_is_added(small, monkeypatch):
    monkeypatch.setattr(read_ahead, "UNUSED_BUDGET_BYTES", 1)
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs, read_ahead=True) as (engine, device):
        device.usage.brought(80, 1)
        read_through(engine, device, range(6))
        assert len(reads_of(blobs, small.pack_digests())) == 6


def test_what_is_queued_for_a_reader_that_is_gone_is_dropped(small):
    with small.engine() as (engine, device):
        table = device.table()
        chunks = table.between(Span(0, 8 * CHUNK_PAGES * PAGE))
        (task,) = engine.claims.queue_unasked(device, chunks, table.packs)
        engine.claims.drop(task)
        assert task.state is State.FAILED
        assert not device.chunks
        assert not engine.claims.begin_task(task)
        assert Reader(engine, device, 0, 4).bytes() == expected(small, 0, 4)


def test_what_a_pull_wants_by_now_is_not_dropped(small):
    with small.engine() as (engine, device):
        table = device.table()
        chunks = table.between(Span(0, 4 * CHUNK_PAGES * PAGE))
        (task,) = engine.claims.queue_unasked(device, chunks, table.packs)
        assert engine.claims.queue_chunks(device, chunks, table.packs) == [task]
        engine.claims.drop(task)
        assert task.state is State.QUEUED
        assert engine.claims.begin_task(task)
        engine.run_prefetch(task)
        assert is_local(device, 3)


def test_no_more_run_at_once_than_the_link_needs(small):
    """Here one chunk a request, and a link that is not known yet."""
    running, most, lock = [], [], threading.Lock()
    release = threading.Event()

    class OneByOne(Claims):
        def queue_unasked(self, device, chunks, packs, *, limit):
            return super().queue_unasked(device, chunks, packs, limit=1)

    def run(_):
        with lock:
            running.append(1)
            most.append(len(running))
        release.wait(20)
        with lock:
            running.pop()

    with small.engine() as (_, device):
        ahead = read_ahead.ReadAhead(OneByOne(), run)
        link = ahead.link(device.spec.store_url)
        for number in range(4):
            ahead.note(device, number * CHUNK_PAGES, CHUNK_PAGES, missed=True)
        wait_until(lambda: len(running) == link.in_flight)
        release.set()
        wait_until(lambda: len(most) > link.in_flight and not running)
        ahead.close()
        assert max(most) == link.in_flight


def trace_of(small):
    spans = [TraceSpan(number, 0, number * CHUNK_PAGES, CHUNK_PAGES) for number in range(CHUNKS)]
    return Trace((small.spec.device_id,), tuple(spans))


def test_a_prefetch_stops_when_its_budget_is_spent(small, monkeypatch):
    monkeypatch.setattr("lazyfs.plan_tasks.TRACE_BATCH_BYTES", CHUNK_PAGES * PAGE)
    plan = plan_from_json(plan_to_json(TracePlan(trace_of(small), 5 * CHUNK_PAGES * PAGE)))
    with small.engine() as (engine, device):
        job = prefetch(engine, device, plan, connections=1)
        assert job.done.wait(20)
        assert job.to_json()["stopped"] == "budget"
        assert job.stored_bytes == 5 * CHUNK_PAGES * PAGE
        assert not device.all_ready()


def test_a_prefetch_stops_when_nobody_is_left(small, monkeypatch):
    monkeypatch.setattr("lazyfs.plan_tasks.TRACE_BATCH_BYTES", CHUNK_PAGES * PAGE)
    blobs = held(small, small.pack_digests())
    with small.engine(blobs) as (engine, device):
        job = prefetch(engine, device, TracePlan(trace_of(small)), connections=1)
        arrived(blobs, 1)
        job.stop()
        blobs.gate.set()
        assert job.done.wait(20)
        assert (job.stopped, job.tasks) == ("unused", 1)


def test_a_prefetch_stops_at_the_end_of_its_trace(small):
    with small.engine() as (engine, device):
        job = prefetch(engine, device, TracePlan(trace_of(small)))
        assert job.done.wait(20)
        assert (job.stopped, job.error) == ("", None)


def test_a_store_that_is_away_ends_no_thread_of_read_ahead(small):
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs, read_ahead=True) as (engine, device):
        read_through(engine, device, range(2))
        good, blobs.inner = blobs.inner, Away()
        engine.accessed(device, 2 * CHUNK_PAGES, CHUNK_PAGES, missed=True)
        wait_until(lambda: not device.chunks)
        blobs.inner = good
        read_through(engine, device, range(2, 5))
        wait_until(lambda: is_local(device, 20))


class Away:
    def read(self, digest, span=None):
        raise StoreUnavailable("mem://", "away")
