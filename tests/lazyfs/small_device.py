"""A device in a memory store, an engine over it, and stores that can be held up."""

import contextlib
import os
import random
import threading
import time

from hotstart.core.digest import Digest
from hotstart.core.span import PAGE, Span
from hotstart.store.bundle import BundleWriter
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.layers import DeviceDescriptor
from hotstart.store.packs import PackWriter, chunk_digest
from hotstart.store.page_runs import Run
from hotstart.store.ready_map import ReadyMap
from hotstart.store.stack import Store
from lazyfs.device import Device
from lazyfs.fault import Fault
from lazyfs.fetcher import Fetcher
from lazyfs.fill_engine import FillEngine
from lazyfs.plans import BundlePlan
from lazyfs.prefetch import Prefetcher
from lazyfs.spec import DeviceSpec
from lazyfs.stores import StorePool
from lazyfs.table_reader import open_table
from tests.fakes.memory_store import memory_store

CHUNK_PAGES = 4
CHUNKS = 24
HOLE = 7
"""Number of the chunk in whose place the device has a hole."""


class HeldBlobs:
    """Reads of more than a table's bytes wait until they are let through; counts them all."""

    def __init__(self, inner):
        self.inner, self.url = inner, inner.url
        self.reads, self.waiting = [], threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.held_blobs = None

    def read(self, digest, span=None):
        self.reads.append((digest, span))
        if self.held_blobs is None or digest in self.held_blobs:
            self.waiting.release()
            assert self.gate.wait(20), "nobody let the read through"
        return self.inner.read(digest, span)

    def has(self, digest):
        return self.inner.has(digest)


class SmallDevice:
    """``content`` is what the device must read as; ``blobs`` can be replaced before ``engine``."""

    def __init__(self, directory, *, seed=1):
        self.store = memory_store()
        source = random.Random(seed)
        self.content = bytearray(CHUNKS * CHUNK_PAGES * PAGE)
        placed = []
        with PackWriter(self.store.blobs, target_size=10 * CHUNK_PAGES * PAGE) as packs:
            for number in range(CHUNKS):
                if number == HOLE:
                    continue
                at = number * CHUNK_PAGES * PAGE
                piece = source.randbytes(CHUNK_PAGES * PAGE)
                self.content[at : at + len(piece)] = piece
                placed.append((at, piece, packs.add(piece)))
            self.packs = packs.finish()
        chunks = [
            Chunk(at, len(piece), p.pack, p.offset, p.stored_length, p.raw, chunk_digest(piece))
            for at, piece, p in placed
        ]
        table = ChunkTable.encode(chunks, [p.digest for p in self.packs], len(self.content))
        descriptor = DeviceDescriptor.of(
            table.content,
            size_bytes=len(self.content),
            head_length=table.head_length,
            packs=self.packs,
        )
        self.descriptor = descriptor
        self.table_digest = descriptor.table.digest
        self.store.blobs.put(self.table_digest, table.content)
        self.spec = DeviceSpec.of(descriptor, self.store.url)
        self._directory = directory

    def pack_digests(self):
        return {pack.digest for pack in self.packs}

    def bundle(self, runs):
        """Store a bundle of these (first page, pages) runs, a frame each two pages; its plan."""
        writer = BundleWriter((self.spec.device_id,), frame_bytes=2 * PAGE)
        for first, pages in runs:
            writer.add(
                Run(0, first, pages), bytes(self.content[first * PAGE : (first + pages) * PAGE])
            )
        content, index = writer.finish()
        self.store.blobs.put(Digest.of(content), content)
        return BundlePlan(Digest.of(content), index, self.store.url)

    @contextlib.contextmanager
    def engine(self, blobs=None, **options):
        """Yield (engine, device) over ``blobs`` (default: the store's)."""
        blobs = blobs if blobs is not None else self.store.blobs
        pool = StorePool(lambda url: Store(url, blobs, self.store.references, self.store.leases))
        path = self._directory / "x.dev"
        ready = ReadyMap.open(path.with_suffix(".ready"), self.spec.device_id, self.spec.pages)
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, len(self.content))
        verified = path.with_suffix(".verified")
        device = Device(self.spec, fd, ready, lambda spec: open_table(blobs, spec, verified))
        engine = FillEngine(Fetcher(pool), **options)
        try:
            yield engine, device
        finally:
            engine.close()
            device.close()


class Reader:
    """Asks for pages and waits for the answer."""

    def __init__(self, engine, device, first, pages):
        self.device, self.first, self.pages = device, first, pages
        self.done, self.answers = threading.Event(), []
        engine.request(Fault(device, first, pages, self._answer, time.monotonic()))

    def _answer(self, error):
        self.answers.append(error)
        self.done.set()

    def result(self):
        """Return the error, or None; exactly one answer has come."""
        assert self.done.wait(20), "the fault was never answered"
        assert len(self.answers) == 1
        return self.answers[0]

    def bytes(self):
        assert self.result() is None
        return os.pread(self.device.fd, self.pages * PAGE, self.first * PAGE)


def expected(small, first, pages):
    return bytes(small.content[first * PAGE : (first + pages) * PAGE])


def reads_of(blobs, digests):
    return [span for digest, span in blobs.reads if digest in digests]


def held(small, digests):
    blobs = HeldBlobs(small.store.blobs)
    blobs.held_blobs = digests
    blobs.gate.clear()
    return blobs


def arrived(blobs, count):
    for _ in range(count):
        assert blobs.waiting.acquire(timeout=20)


def prefetch(engine, device, plan, **options):
    return Prefetcher(engine, **options).start(plan, {device.device_id: device})


def covers(spans, chunk_bytes):
    return sum(span.length for span in spans) >= chunk_bytes


__all__ = ["CHUNK_PAGES", "HOLE", "HeldBlobs", "Reader", "SmallDevice", "Span", "expected"]
