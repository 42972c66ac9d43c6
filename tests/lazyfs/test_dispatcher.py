"""The dispatcher with few slots, many readers, and sets that go while somebody still fetches."""

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hotstart.core.run import DEVNULL, PIPE, spawn
from hotstart.core.span import PAGE
from hotstart.kernel import fanotify
from lazyfs.device import Device, DeviceClosed
from lazyfs.fanotify_filler import DeviceSet, Dispatcher
from lazyfs.fault import Fault
from lazyfs.journal import create_journal
from lazyfs.plans import EverythingPlan
from tests.lazyfs.node import wait_until
from tests.lazyfs.small_device import HeldBlobs, Reader, expected, prefetch

pytestmark = [pytest.mark.kernel]
SLOTS = 2


@contextlib.contextmanager
def dispatched(engine, device, path):
    """Serve a marked device file with a journal of two slots."""
    group = fanotify.create_group()
    fanotify.mark(group, path)
    served = DeviceSet(device, group, create_journal(SLOTS), engine, owns_device=False)
    dispatcher = Dispatcher()
    dispatcher.add(served)
    try:
        yield dispatcher, served
    finally:
        dispatcher.close()


@contextlib.contextmanager
def readers(path, pages):
    """Processes that read a page each, past any read-ahead."""
    argv = ["dd", f"if={path}", "bs=4096", "count=1", "iflag=direct"]
    processes = [spawn([*argv, f"skip={page}"], stdout=PIPE, stderr=DEVNULL) for page in pages]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_more_readers_than_slots_all_read_right(small, tmp_path):
    blobs = HeldBlobs(small.store.blobs)
    blobs.held_blobs = small.pack_digests()
    blobs.gate.clear()
    pages = range(0, 96, 8)
    path = tmp_path / "x.dev"
    with (
        small.engine(blobs) as (engine, device),
        dispatched(engine, device, path) as (_, served),
        readers(path, pages) as processes,
    ):
        wait_until(lambda: not served.journal.free)
        blobs.gate.set()
        for page, process in zip(pages, processes, strict=True):
            out, _ = process.communicate(timeout=20)
            assert process.returncode == 0
            assert out == expected(small, page, 1)
        assert len(served.journal.free) == SLOTS


def test_a_failed_fill_fails_its_reader_alone(small, tmp_path):
    small.store.blobs.remove(small.packs[0].digest)
    path = tmp_path / "x.dev"
    with (
        small.engine() as (engine, device),
        dispatched(engine, device, path),
        readers(path, [0, 95]) as processes,
    ):
        outputs = [process.communicate(timeout=20)[0] for process in processes]
        assert processes[0].returncode != 0
        assert outputs == [b"", expected(small, 95, 1)]


def test_reads_of_a_complete_device_are_recorded_and_count_for_nothing_else(small, tmp_path):
    path = tmp_path / "x.dev"
    with small.engine() as (engine, device), dispatched(engine, device, path) as (_, served):
        assert prefetch(engine, device, EverythingPlan()).done.wait(20)
        wait_until(lambda: device.complete)
        served.touches.start()
        with readers(path, [3]) as processes:
            out, _ = processes[0].communicate(timeout=20)
        assert out == expected(small, 3, 1)
        assert [(first, pages) for _, first, pages in served.touches.stop()] == [(3, 1)]
        assert device.usage.read_bytes == 0


def test_a_set_may_go_while_its_bytes_are_still_on_their_way(small, tmp_path):
    """Its reader was killed; the late answer must reach neither another group nor another file."""
    blobs = HeldBlobs(small.store.blobs)
    blobs.held_blobs = small.pack_digests()
    blobs.gate.clear()
    path = tmp_path / "x.dev"
    with small.engine(blobs) as (engine, device):
        with (
            dispatched(engine, device, path) as (dispatcher, served),
            readers(path, [0]) as (process,),
        ):
            assert blobs.waiting.acquire(timeout=20)
            process.kill()
            process.wait()
            dispatcher.remove(served)
        blobs.gate.set()
        wait_until(lambda: device.ready.missing(0, 1) < 0)
        assert device.counters.errors == 0


class Plain:
    """A group that is an event counter: each event is one more to serve."""

    def __init__(self, closing=None):
        self.group = os.eventfd(0)
        self.served, self.begun = threading.Event(), threading.Event()
        self._closing = closing

    def take_over(self, reading):
        reading(True)

    def serve(self):
        os.eventfd_read(self.group)
        self.served.set()

    def close(self):
        self.begun.set()
        if self._closing is not None:
            assert self._closing.wait(20), "nobody let it be closed"
        os.close(self.group)


def test_a_set_that_takes_long_to_close_keeps_no_other_waiting():
    """Closing waits for the disk when the device has just become complete."""
    go_on = threading.Event()
    slow, other, dispatcher = Plain(go_on), Plain(), Dispatcher()
    dispatcher.add(slow)
    dispatcher.add(other)
    with ThreadPoolExecutor() as pool:
        closing = pool.submit(dispatcher.remove, slow)
        try:
            assert slow.begun.wait(20)
            os.eventfd_write(other.group, 1)
            assert other.served.wait(5)
            assert not closing.done()
        finally:
            go_on.set()
    dispatcher.close()


def test_a_closed_device_is_written_no_more(small, tmp_path):
    with small.engine() as (_, device):
        other = Device(device.spec, os.dup(device.fd), device.ready, lambda _: device.table())
        path = tmp_path / "other"
        number = other.fd
        other.ready = _Open()
        other.close()
        again = os.open(path, os.O_RDWR | os.O_CREAT)
        assert again == number, "the number names another file now"
        with pytest.raises(DeviceClosed):
            other.fill(0, memoryview(b"x" * PAGE), lambda: None)
        assert os.fstat(again).st_size == 0
        os.close(again)


class _Open:
    """A ready map that may be closed without harm."""

    complete = False

    def close(self):
        pass


def test_a_fault_on_a_device_that_was_let_go_is_answered(small):
    with small.engine() as (engine, device):
        assert Reader(engine, device, 0, 1).result() is None
        answers = []
        device._closed = True
        engine.request(Fault(device, 80, 1, answers.append, time.monotonic()))
        wait_until(lambda: answers)
        assert isinstance(answers[0], DeviceClosed)
        device._closed = False
