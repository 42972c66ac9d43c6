"""The engine: single flight, faults before prefetch, retries, EIO; every fault answered once."""

import os
import random
import threading

import pytest

from hotstart.core.errors import Unavailable
from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import BlobNotFound, StoreDenied
from hotstart.store.trace import Trace, TraceSpan
from lazyfs.disk_space import DiskFull
from lazyfs.plans import EverythingPlan, TracePlan
from lazyfs.prefetch import Prefetcher
from lazyfs.quarantine import ChunkQuarantined
from tests.fakes.faulty_store import FaultyBlobs
from tests.lazyfs.small_device import (
    CHUNK_PAGES,
    CHUNKS,
    HOLE,
    HeldBlobs,
    Reader,
    arrived,
    expected,
    held,
    prefetch,
    reads_of,
)


def test_a_fault_is_answered_when_its_bytes_are_there(small):
    with small.engine() as (engine, device):
        assert Reader(engine, device, 5, 9).bytes() == expected(small, 5, 9)
        assert device.ready.missing(5, 9) < 0
        assert device.ready.missing(20, 1) == 20, "only the chunks of the fault were fetched"


def test_every_page_can_be_asked_for_in_any_order(small):
    pages = list(range(small.spec.pages))
    random.Random(3).shuffle(pages)
    with small.engine() as (engine, device):
        readers = [Reader(engine, device, page, 1) for page in pages]
        for page, reader in zip(pages, readers, strict=True):
            assert reader.bytes() == expected(small, page, 1)
        assert device.counters.errors == 0


def test_a_hole_is_zeros_and_costs_no_request(small):
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs) as (engine, device):
        assert Reader(engine, device, HOLE * CHUNK_PAGES, CHUNK_PAGES).bytes() == bytes(
            CHUNK_PAGES * PAGE
        )
        assert reads_of(blobs, small.pack_digests()) == []


def test_many_readers_of_one_chunk_cause_one_request(small):
    blobs = held(small, small.pack_digests())
    with small.engine(blobs) as (engine, device):
        readers = [Reader(engine, device, page % CHUNK_PAGES, 1) for page in range(40)]
        arrived(blobs, 1)
        blobs.gate.set()
        assert [reader.result() for reader in readers] == [None] * 40
        assert len(reads_of(blobs, small.pack_digests())) == 1


def test_neighbouring_chunks_of_a_fault_are_one_request(small):
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs) as (engine, device):
        assert Reader(engine, device, 0, 3 * CHUNK_PAGES).result() is None
        assert len(reads_of(blobs, small.pack_digests())) == 1


def test_request_does_not_wait_for_the_store(small):
    blobs = held(small, {small.table_digest})
    with small.engine(blobs) as (engine, device):
        reader = Reader(engine, device, 0, 1)  # returns although the table can't be read yet
        arrived(blobs, 1)
        assert not reader.done.is_set()
        blobs.gate.set()
        assert reader.result() is None


@pytest.mark.parametrize("script", ["ok timeout short ok", "timeout timeout ok", "ok timeout"])
def test_what_may_pass_is_tried_again(small, script):
    with small.engine(FaultyBlobs(small.store.blobs, script)) as (engine, device):
        assert Reader(engine, device, 0, 2).bytes() == expected(small, 0, 2)
        assert device.counters.retries > 0


def test_patience_ends(small):
    blobs = FaultyBlobs(small.store.blobs, "ok " + "timeout " * 50)
    with small.engine(blobs, patience_s=0.2) as (engine, device):
        assert isinstance(Reader(engine, device, 0, 1).result(), Unavailable)
        assert device.ready.missing(0, 1) == 0
        assert device.counters.errors == 1


def test_an_unreadable_table_fails_its_readers_and_is_read_again_later(small):
    blobs = FaultyBlobs(small.store.blobs, "denied")
    with small.engine(blobs) as (engine, device):
        assert isinstance(Reader(engine, device, 0, 1).result(), StoreDenied)
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)


def test_a_missing_pack_fails_readers_and_a_later_read_succeeds(small):
    pack = small.packs[0].digest
    content = small.store.blobs.read(pack)
    small.store.blobs.remove(pack)
    with small.engine() as (engine, device):
        assert isinstance(Reader(engine, device, 0, 1).result(), BlobNotFound)
        assert device.ready.missing(0, 1) == 0, "nothing is ready that is not there"
        small.store.blobs.put(pack, content)
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)


def test_wrong_bytes_are_fetched_once_more(small):
    blobs = FaultyBlobs(small.store.blobs, "ok corrupt")
    with small.engine(blobs) as (engine, device):
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)
        assert device.counters.mismatches == 1


def test_bytes_that_stay_wrong_are_never_data(small):
    pack = small.packs[0].digest
    bad = bytearray(small.store.blobs.read(pack))
    bad[10] ^= 1
    small.store.blobs.contents[pack] = bytes(bad)
    with small.engine() as (engine, device):
        reader = Reader(engine, device, 0, 2 * CHUNK_PAGES)
        assert isinstance(reader.result(), ChunkQuarantined)
        assert device.ready.missing(0, CHUNK_PAGES) == 0
        assert Reader(engine, device, CHUNK_PAGES, 1).bytes() == expected(small, CHUNK_PAGES, 1)


def test_a_chunk_in_quarantine_is_read_again_once_it_is_let_out(small):
    pack = small.packs[0].digest
    good = small.store.blobs.read(pack)
    bad = bytearray(good)
    bad[10] ^= 1
    small.store.blobs.contents[pack] = bytes(bad)
    with small.engine() as (engine, device):
        assert isinstance(Reader(engine, device, 0, 1).result(), ChunkQuarantined)
        small.store.blobs.contents[pack] = good
        asked = device.counters.requests
        assert isinstance(Reader(engine, device, 0, 1).result(), ChunkQuarantined)
        assert device.counters.requests == asked
        assert engine._fetcher.quarantine.lift() == 1
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)
        assert device.counters.quarantined == 1


def test_a_table_that_came_wrong_is_read_once_more(small):
    blobs = FaultyBlobs(small.store.blobs, "corrupt ok")
    with small.engine(blobs) as (engine, device):
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)
        assert device.counters.mismatches == 1


def test_a_full_disk_fails_the_reader_and_a_later_read_succeeds(small, monkeypatch):
    with small.engine() as (engine, device):
        written = device.write
        monkeypatch.setattr(type(device), "write", no_space)
        assert isinstance(Reader(engine, device, 0, 1).result(), DiskFull)
        monkeypatch.setattr(type(device), "write", lambda _, *words: written(*words))
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)


def no_space(*_):
    raise OSError(28, "no space left on device")


def test_a_bug_in_a_store_is_answered_as_an_error(small):
    class Broken(HeldBlobs):
        def read(self, digest, span=None):
            raise ZeroDivisionError

    with small.engine(Broken(small.store.blobs)) as (engine, device):
        assert isinstance(Reader(engine, device, 0, 1).result(), ZeroDivisionError)


def test_completion_is_told_once(small):
    told = []
    with small.engine(on_complete=told.append) as (engine, device):
        readers = [Reader(engine, device, page, 1) for page in range(small.spec.pages)]
        assert all(reader.result() is None for reader in readers)
        job = Prefetcher(engine).start(EverythingPlan(), {device.device_id: device})
        assert job.done.wait(20)
        assert told == [device]


def test_prefetching_everything_makes_the_device_whole(small):
    told = []
    blobs = HeldBlobs(small.store.blobs)
    with small.engine(blobs, on_complete=told.append) as (engine, device):
        job = prefetch(engine, device, EverythingPlan())
        assert job.done.wait(20)
        assert job.error is None
        assert told == [device]
        assert Reader(engine, device, 0, small.spec.pages).bytes() == bytes(small.content)
        spans = reads_of(blobs, small.pack_digests())
        assert sum(span.length for span in spans) == (CHUNKS - 1) * CHUNK_PAGES * PAGE


def test_faults_do_not_queue_behind_prefetch(small):
    """Prefetch is stuck in its first request; faults elsewhere are answered all the same."""
    blobs = held(small, {small.packs[0].digest})
    with small.engine(blobs) as (engine, device):
        job = prefetch(engine, device, EverythingPlan(), connections=1)
        arrived(blobs, 1)
        last = small.spec.pages - 1
        assert Reader(engine, device, last, 1).bytes() == expected(small, last, 1)
        assert not job.done.is_set()
        blobs.gate.set()
        assert job.done.wait(20)
        assert job.error is None


def test_a_fault_and_a_prefetch_never_fetch_the_same_chunk_twice(small):
    blobs = held(small, small.pack_digests())
    with small.engine(blobs) as (engine, device):
        job = prefetch(engine, device, EverythingPlan(), connections=2)
        arrived(blobs, 2)
        readers = [Reader(engine, device, page, 1) for page in range(small.spec.pages)]
        blobs.gate.set()
        assert job.done.wait(20)
        assert all(reader.result() is None for reader in readers)
        fetched = sum(span.length for span in reads_of(blobs, small.pack_digests()))
        assert fetched == (CHUNKS - 1) * CHUNK_PAGES * PAGE


def test_a_fault_around_a_page_that_a_frame_brought_takes_a_queued_chunk_once(small):
    """The pages before and after it are two absent runs of one chunk."""
    with small.engine() as (engine, device):
        table = device.table()
        chunks = table.between(Span(0, small.spec.size_bytes))
        engine.claims.queue_chunks(device, chunks, table.packs)
        os.pwrite(device.fd, expected(small, 1, 1), PAGE)
        device.ready.set(1, 1)
        assert Reader(engine, device, 0, CHUNK_PAGES).bytes() == expected(small, 0, CHUNK_PAGES)


def test_a_reader_is_answered_whatever_goes_wrong_with_its_claim(small, monkeypatch):
    with small.engine() as (engine, device):

        def broken(*_):
            raise ValueError("injected")

        monkeypatch.setattr(engine.claims, "join_chunks", broken)
        assert isinstance(Reader(engine, device, 0, 1).result(), ValueError)
        monkeypatch.undo()
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)


def test_a_second_pull_ends_no_sooner_than_what_the_first_is_fetching(small):
    blobs = held(small, small.pack_digests())
    with small.engine(blobs) as (engine, device):
        first = prefetch(engine, device, EverythingPlan())
        arrived(blobs, 1)
        second = prefetch(engine, device, EverythingPlan())
        assert not second.done.wait(0.05)
        blobs.gate.set()
        assert second.done.wait(20)
        assert device.all_ready()
        assert first.done.wait(20)


def test_a_failing_prefetch_says_so_and_the_rest_is_fetched(small):
    small.store.blobs.remove(small.packs[1].digest)
    with small.engine() as (engine, device):
        job = prefetch(engine, device, EverythingPlan())
        assert job.done.wait(20)
        assert isinstance(job.error, BlobNotFound)
        assert device.ready.missing(0, CHUNK_PAGES) < 0
        last = small.spec.pages - 1
        assert device.ready.missing(last, 1) < 0


def test_a_trace_is_followed_in_its_order(small):
    blobs = HeldBlobs(small.store.blobs)
    first_pages = [CHUNK_PAGES * number for number in (20, 3, 15, 3)]
    spans = tuple(TraceSpan(n, 0, page, 1) for n, page in enumerate(first_pages))
    trace = Trace((small.spec.device_id,), spans)
    with small.engine(blobs) as (engine, device):
        job = prefetch(engine, device, TracePlan(trace), connections=1)
        assert job.done.wait(20)
        assert [device.ready.missing(page, 1) for page in first_pages] == [-1] * 4
        table = device.table()
        offsets = [
            (table.packs[chunk.pack], chunk.pack_offset)
            for page in first_pages[:3]
            for chunk in [table.at(page * PAGE)]
        ]
        fetched = [(d, s.offset) for d, s in blobs.reads if d in small.pack_digests()]
        assert fetched == offsets


def test_a_bundle_fills_its_pages_without_the_chunk_table(small):
    blobs = HeldBlobs(small.store.blobs)
    runs = [(40, 3), (2, 2), (77, 1)]
    plan = small.bundle(runs)
    with small.engine(blobs) as (engine, device):
        job = prefetch(engine, device, plan)
        assert job.done.wait(20)
        assert job.error is None
        for first, pages in runs:
            assert device.ready.missing(first, pages) < 0
            assert Reader(engine, device, first, pages).bytes() == expected(small, first, pages)
        assert {digest for digest, _ in blobs.reads} <= {plan.bundle, small.table_digest}


def test_a_fault_waits_for_the_frame_that_brings_its_page(small):
    plan = small.bundle([(0, 2), (30, 2)])
    blobs = held(small, {plan.bundle})
    with small.engine(blobs) as (engine, device):
        prefetch(engine, device, plan)
        arrived(blobs, 1)
        reader = Reader(engine, device, 31, 1)
        assert not reader.done.is_set()
        blobs.gate.set()
        assert reader.bytes() == expected(small, 31, 1)
        assert reads_of(blobs, small.pack_digests()) == []


def test_a_fault_across_a_frame_and_a_chunk_waits_for_both(small):
    plan = small.bundle([(0, 2)])
    blobs = held(small, {plan.bundle})
    with small.engine(blobs) as (engine, device):
        prefetch(engine, device, plan)
        arrived(blobs, 1)
        reader = Reader(engine, device, 0, 12)
        blobs.gate.set()
        assert reader.bytes() == expected(small, 0, 12)


def test_a_missing_bundle_sends_readers_to_the_chunks(small):
    plan = small.bundle([(0, 2), (30, 2)])
    small.store.blobs.remove(plan.bundle)
    with small.engine() as (engine, device):
        job = prefetch(engine, device, plan)
        readers = [Reader(engine, device, page, 1) for page in (0, 1, 30, 31)]
        assert [reader.result() for reader in readers] == [None] * 4
        assert job.done.wait(20)
        assert isinstance(job.error, BlobNotFound)


def test_a_bundle_with_a_wrong_byte_sends_readers_to_the_chunks(small):
    plan = small.bundle([(0, 2), (30, 2)])
    bad = bytearray(small.store.blobs.read(plan.bundle))
    bad[5] ^= 1
    small.store.blobs.contents[plan.bundle] = bytes(bad)
    with small.engine() as (engine, device):
        job = prefetch(engine, device, plan)
        assert Reader(engine, device, 0, 2).bytes() == expected(small, 0, 2)
        assert Reader(engine, device, 30, 2).bytes() == expected(small, 30, 2)
        assert job.done.wait(20)
        assert isinstance(job.error, ChunkQuarantined)


def test_closing_ends_every_thread(small):
    before = set(threading.enumerate())
    with small.engine() as (engine, device):
        assert Reader(engine, device, 0, 40).result() is None
        assert prefetch(engine, device, EverythingPlan()).done.wait(20)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()


def test_what_fails_at_a_devices_completion_leaves_nobody_waiting(small):
    def fail(device):
        raise OSError("no space left")

    with small.engine(on_complete=fail) as (engine, device):
        assert Reader(engine, device, 0, 1).bytes() == expected(small, 0, 1)
        job = Prefetcher(engine).start(EverythingPlan(), {small.spec.device_id: device})
        assert job.done.wait(20)
        assert job.error is None
        assert device.complete
