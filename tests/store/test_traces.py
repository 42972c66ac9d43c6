"""Traces in a store: the union of several starts, whatever races or is damaged."""

from types import SimpleNamespace

import pytest

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError
from hotstart.core.span import PAGE
from hotstart.store import traces
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import ReferenceChanged, ReferenceName
from hotstart.store.trace import Trace, TraceSpan
from hotstart.store.traces import read_trace
from tests.fakes.memory_store import memory_store

IMAGE = Digest.of(b"manifest")
DEVICE, OTHER = "ab" * 32, "cd" * 32
PAGES = 4000


def add_trace(store, image, trace):
    """Add to the trace of an image with one device."""
    return traces.add_trace(
        store, image, trace, [SimpleNamespace(device_id=DEVICE, size_bytes=PAGES * PAGE)]
    )


def trace(*spans):
    return Trace((DEVICE,), tuple(TraceSpan(at, 0, first, pages) for at, first, pages in spans))


def test_traces_of_several_starts_merge_in_the_order_of_their_times():
    store = memory_store()
    add_trace(store, IMAGE, trace((0, 10, 2), (40, 90, 1)))
    union = add_trace(store, IMAGE, trace((5, 11, 4), (20, 50, 1)))
    assert union == read_trace(store, IMAGE)
    assert union == trace((0, 10, 2), (5, 12, 3), (20, 50, 1), (40, 90, 1))


def test_a_start_that_touches_nothing_new_writes_nothing():
    store = memory_store()
    add_trace(store, IMAGE, trace((0, 10, 2)))
    before = store.references.get(ReferenceName.trace_of(IMAGE)).version
    assert add_trace(store, IMAGE, trace((3, 11, 1))) is None
    assert store.references.get(ReferenceName.trace_of(IMAGE)).version == before


def test_nothing_recorded_is_none():
    assert read_trace(memory_store(), IMAGE) is None


def test_a_damaged_trace_is_replaced():
    store = memory_store()
    store.blobs.put(Digest.of(b"no trace"), b"no trace")
    target = Descriptor.of("a/b", b"no trace")
    store.references.swap(ReferenceName.trace_of(IMAGE), target, None)
    with pytest.raises(IntegrityError):
        read_trace(store, IMAGE)
    add_trace(store, IMAGE, trace((0, 1, 1)))
    assert read_trace(store, IMAGE) == trace((0, 1, 1))


def test_a_trace_whose_reference_cannot_be_read_is_replaced():
    store = memory_store()
    store.references._documents[ReferenceName.trace_of(IMAGE)] = b"no document"
    add_trace(store, IMAGE, trace((0, 1, 1)))
    assert read_trace(store, IMAGE) == trace((0, 1, 1))


def test_of_racing_starts_every_touch_is_kept(monkeypatch):
    store = memory_store()
    swap = store.references.swap
    others = [trace((1, 100, 1)), trace((2, 200, 1))]

    def overtaken(name, target, expected):
        if others:
            other = others.pop()
            monkeypatch.setattr(store.references, "swap", swap)
            add_trace(store, IMAGE, other)
            monkeypatch.setattr(store.references, "swap", overtaken)
        return swap(name, target, expected)

    monkeypatch.setattr(store.references, "swap", overtaken)
    add_trace(store, IMAGE, trace((0, 1, 1)))
    assert read_trace(store, IMAGE) == trace((0, 1, 1), (1, 100, 1), (2, 200, 1))


def test_who_is_always_overtaken_says_so(monkeypatch):
    store = memory_store()

    def overtaken(name, target, expected):
        raise ReferenceChanged(store.url, name, expected)

    monkeypatch.setattr(store.references, "swap", overtaken)
    with pytest.raises(ReferenceChanged):
        add_trace(store, IMAGE, trace((0, 1, 1)))


def test_a_trace_whose_blob_is_gone_is_replaced():
    store = memory_store()
    store.references.swap(ReferenceName.trace_of(IMAGE), Descriptor.of("a/b", b"gone"), None)
    add_trace(store, IMAGE, trace((0, 1, 1)))
    assert read_trace(store, IMAGE) == trace((0, 1, 1))


def test_spans_of_other_devices_are_left_out_and_heal():
    store = memory_store()
    foreign = Trace((OTHER, DEVICE), (TraceSpan(0, 0, 5, 1), TraceSpan(1, 1, 6, 1)))
    traces.add_trace(
        store, IMAGE, foreign,
        [SimpleNamespace(device_id=one, size_bytes=PAGES * PAGE) for one in (OTHER, DEVICE)],
    )  # fmt: skip
    add_trace(store, IMAGE, trace((3, 6, 1)))
    assert read_trace(store, IMAGE) == trace((1, 6, 1))


def test_starts_with_ever_other_input_do_not_add_up_to_the_whole_image():
    store = memory_store()
    add_trace(store, IMAGE, trace((0, 0, PAGES // 4 - 1)))
    assert add_trace(store, IMAGE, trace((0, PAGES // 2, 1))) is not None
    assert add_trace(store, IMAGE, trace((0, PAGES // 2 + 9, 1))) is None
    assert read_trace(store, IMAGE).pages == PAGES // 4


def test_a_first_start_may_touch_all_of_an_image():
    store = memory_store()
    add_trace(store, IMAGE, trace((0, 0, PAGES)))
    assert read_trace(store, IMAGE).pages == PAGES
