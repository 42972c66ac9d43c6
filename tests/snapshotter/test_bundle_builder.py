"""Start bundles: every touched page once, in order of use, with the bytes of its device."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE
from hotstart.store.bundle import BundleIndex
from hotstart.store.packs import decode
from hotstart.store.page_runs import Run
from hotstart.store.trace import Trace, TraceSpan
from snapshotter.bundle_builder import (
    DevicePages,
    MemoryExtent,
    Recording,
    make_bundle,
)

DUMP, IMAGE = "d" * 64, "1" * 64
MEMORY = MemoryExtent(DUMP, first_page=4, pages=8)


class Blobs:
    """Takes blobs into a dictionary."""

    def __init__(self):
        self.content = {}

    def put(self, digest, content):
        self.content[digest] = bytes(content)


def page(device, number):
    return bytes([1 + device * 100 + number % 100]) * PAGE


@pytest.fixture
def descriptors():
    opened = {}
    for number, device_id in enumerate((DUMP, IMAGE)):
        fd = os.memfd_create(device_id[:8])
        os.write(fd, b"".join(page(number, i) for i in range(64)))
        opened[device_id] = fd
    yield opened
    for fd in opened.values():
        os.close(fd)


def trace(*spans):
    return Trace((DUMP, IMAGE), tuple(TraceSpan(i, *span) for i, span in enumerate(spans)))


def unpack(parts, blobs):
    """Return the bundle's pages in order as (device, page, bytes)."""
    content, index = blobs.content[parts.bundle.digest], BundleIndex.decode(parts.index.data)
    found = []
    for frame in index.frames:
        stored = content[frame.offset : frame.offset + frame.stored_length]
        plain = memoryview(decode(stored, raw=frame.raw, length=frame.length))
        numbers = [
            (run.device, p) for run in frame.runs for p in range(run.first_page, run.end_page)
        ]
        found += [
            (*number, bytes(plain[i * PAGE : (i + 1) * PAGE])) for i, number in enumerate(numbers)
        ]
    return found, index


def build(recordings, descriptors):
    blobs = Blobs()
    pages = DevicePages(descriptors)
    return unpack(make_bundle(recordings, [MEMORY], (DUMP, IMAGE), pages, blobs), blobs)


def test_dump_files_come_first_then_memory_then_other_files(descriptors):
    files = trace((1, 30, 2), (0, 0, 2), (1, 9, 1))
    found, index = build([Recording(files, [Run(0, 5, 1), Run(0, 1, 1)])], descriptors)
    # One small frame holds all: its runs are sorted; the order shows in the working set.
    assert sorted((device, number) for device, number, _ in found) == [
        (0, 0), (0, 1), (0, 5), (0, 9), (1, 9), (1, 30), (1, 31),
    ]  # fmt: skip
    assert index.memory_order == (Run(0, 1, 1), Run(0, 5, 1))
    assert index.device_ids == (DUMP, IMAGE)


def test_the_bytes_are_those_of_the_devices(descriptors):
    found, _ = build([Recording(trace((1, 3, 4), (0, 2, 1)), [Run(0, 0, 3)])], descriptors)
    assert all(content == page(device, number) for device, number, content in found)
    assert len(found) == 8


def test_frames_follow_the_order_of_use(descriptors):
    far = [Run(0, number, 1) for number in range(8)]
    files = trace(*((1, number, 1) for number in range(63, -1, -1)))
    parts_order = [
        (device, number) for device, number, _ in build([Recording(files, far)], descriptors)[0]
    ]
    dump_end = max(i for i, (device, _) in enumerate(parts_order) if device == 0)
    assert dump_end < 64  # memory lies in the first frame of 64 pages, before most of the image


runs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(1, 4)), max_size=12)
memory = st.lists(st.builds(Run, st.just(0), st.integers(0, 7), st.just(1)), max_size=8)


@given(st.lists(st.tuples(runs, memory), min_size=1, max_size=3))
@settings(derandomize=True, max_examples=30)
def test_each_page_of_any_recordings_is_packed_once(recorded):
    opened = {}
    for number, device_id in enumerate((DUMP, IMAGE)):
        opened[device_id] = os.memfd_create(device_id[:8])
        os.write(opened[device_id], b"".join(page(number, i) for i in range(64)))
    try:
        found, _ = build([Recording(trace(*f), m) for f, m in recorded], opened)
    finally:
        for fd in opened.values():
            os.close(fd)
    wanted = {(d, p) for f, _ in recorded for d, first, n in f for p in range(first, first + n)}
    wanted |= {(0, 4 + run.first_page) for _, m in recorded for run in m}
    packed = [(device, number) for device, number, _ in found]
    assert len(packed) == len(set(packed))
    assert wanted <= set(packed)
    # Beyond what was recorded there are only pages that bridge short gaps in the memory order.
    assert set(packed) - wanted <= {(0, 4 + number) for number in range(8)}
    assert all(content == page(device, number) for device, number, content in found)


def test_a_short_device_file_is_padded_to_whole_pages():
    fd = os.memfd_create("short")
    try:
        os.write(fd, b"abc")
        assert DevicePages({DUMP: fd}).read(DUMP, Run(0, 0, 2)) == b"abc".ljust(2 * PAGE, b"\0")
    finally:
        os.close(fd)
