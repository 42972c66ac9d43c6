"""Traces and start bundles: round trips, unions, and frames that hold what the index says."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE
from hotstart.store import bundle as bundle_format
from hotstart.store import trace as trace_format
from hotstart.store.bundle import BundleIndex, BundleWriter
from hotstart.store.packs import decode_verified
from hotstart.store.page_runs import PageSet, Run, coalesce
from hotstart.store.trace import Trace, TraceSpan, merge
from tests.store import samples

DERANDOMISED = settings(derandomize=True, max_examples=150, deadline=None)
A, B, C = (letter * 64 for letter in "abc")

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=25)
spans = st.lists(
    st.builds(
        TraceSpan, st.integers(0, 1000), st.integers(0, 1), st.integers(0, 80), st.integers(1, 30)
    ),
    max_size=20,
).map(lambda found: tuple(sorted(found, key=lambda span: span.at_ms)))


def pages_of_trace(trace):
    return {
        (trace.device_ids[span.device], page)
        for span in trace.spans
        for page in range(span.first_page, span.first_page + span.pages)
    }


@given(spans)
@DERANDOMISED
def test_a_trace_survives_its_encoding(found):
    trace = Trace((A, B), found)
    assert Trace.decode(trace.encode()) == trace


@given(spans, spans)
@DERANDOMISED
def test_a_merged_trace_is_the_union_each_page_once_in_order_of_time(one, two):
    traces = [Trace((A, B), one), Trace((B, C), two)]
    merged = merge(traces)
    assert pages_of_trace(merged) == pages_of_trace(traces[0]) | pages_of_trace(traces[1])
    assert merged.pages == len(pages_of_trace(merged))
    times = [span.at_ms for span in merged.spans]
    assert times == sorted(times)
    assert Trace.decode(merged.encode()) == merged


def test_a_merged_trace_keeps_the_recorded_order_within_a_millisecond():
    trace = Trace((A,), (TraceSpan(1, 0, 9, 1), TraceSpan(1, 0, 3, 1), TraceSpan(1, 0, 8, 3)))
    merged = merge([trace])
    assert [(s.first_page, s.pages) for s in merged.spans] == [(9, 1), (3, 1), (8, 1), (10, 1)]


@pytest.mark.parametrize(
    "span",
    [
        TraceSpan(0, 1, 0, 1),
        TraceSpan(0, 0, 0, 0),
        TraceSpan(-1, 0, 0, 1),
        TraceSpan(0, 0, 1 << 60, 1),
        TraceSpan(1 << 32, 0, 0, 1),
    ],
)
def test_spans_that_no_trace_may_hold_are_refused_when_written(span):
    with pytest.raises(ValueError, match="trace"):
        Trace((A,), (span,)).encode()


def test_spans_out_of_order_are_refused_when_written():
    with pytest.raises(ValueError, match="order"):
        Trace((A,), (TraceSpan(5, 0, 0, 1), TraceSpan(4, 0, 1, 1))).encode()


@given(ranges)
@DERANDOMISED
def test_a_page_set_names_each_page_once_when_it_is_new(found):
    pages, seen = PageSet(), set()
    for first, count in found:
        new = [page for start, n in pages.add(first, count) for page in range(start, start + n)]
        assert new == [page for page in range(first, first + count) if page not in seen]
        seen |= set(new)


@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=60))
@DERANDOMISED
def test_coalesced_runs_hold_the_same_pages_in_fewest_runs(pages):
    runs = coalesce([Run(device, page, 1) for device, page in pages])
    held = [(run.device, page) for run in runs for page in range(run.first_page, run.end_page)]
    assert held == sorted(pages)
    neighbours = {(run.device, run.first_page) for run in runs}
    assert not any((run.device, run.end_page) in neighbours for run in runs)


def unpack(bundle, index):
    """Return every page of a bundle, in the order of the bundle."""
    pages = {}
    for frame in index.frames:
        content = decode_verified(
            bundle[frame.offset : frame.offset + frame.stored_length],
            raw=frame.raw,
            length=frame.length,
            digest=frame.digest,
            source="bundle",
        )
        position = 0
        for run in frame.runs:
            for page in range(run.first_page, run.end_page):
                pages[run.device, page] = bytes(content[position : position + PAGE])
                position += PAGE
        assert position == frame.length
    return pages


@given(
    pages=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 300)), unique=True, max_size=40),
    frame_pages=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@DERANDOMISED
def test_a_bundle_holds_every_page_it_was_given(pages, frame_pages, seed):
    source = random.Random(seed)
    writer = BundleWriter((A, B), frame_bytes=frame_pages * PAGE)
    expected = {}
    for device, page in pages:
        content = source.choice([source.randbytes(PAGE), bytes(PAGE), b"x" * PAGE])
        writer.add(Run(device, page, 1), content)
        expected[device, page] = content
    bundle, index = writer.finish()
    assert unpack(bundle, index) == expected
    assert index.stored_bytes == len(bundle)
    assert BundleIndex.decode(index.encode()) == index
    assert all(frame.length <= frame_pages * PAGE for frame in index.frames)


def test_a_long_run_is_spread_over_frames_in_order():
    content = random.Random(1).randbytes(10 * PAGE)
    writer = BundleWriter((A,), frame_bytes=4 * PAGE)
    writer.add(Run(0, 100, 10), content)
    _, index = writer.finish()
    assert [frame.runs for frame in index.frames] == [
        (Run(0, 100, 4),),
        (Run(0, 104, 4),),
        (Run(0, 108, 2),),
    ]


def test_frames_keep_the_order_of_use_and_sort_within():
    bundle, index = samples.bundle()
    assert [frame.runs for frame in index.frames] == [
        (Run(0, 5, 3), Run(1, 7, 1)),
        (Run(0, 100, 2),),
    ]
    assert [frame.raw for frame in index.frames] == [False, True]
    assert index.memory_order == (Run(0, 9, 2), Run(0, 3, 1))
    assert len(unpack(bundle, index)) == 6


def test_an_empty_bundle_is_a_bundle():
    bundle, index = BundleWriter((A,)).finish()
    assert bundle == b""
    assert BundleIndex.decode(index.encode()) == index


def test_a_run_must_bring_its_pages():
    with pytest.raises(ValueError, match="bytes for"):
        BundleWriter((A,)).add(Run(0, 0, 2), bytes(PAGE))
    with pytest.raises(ValueError, match="bytes for"):
        BundleWriter((A,)).add(Run(1, 0, 1), bytes(PAGE))


def test_a_bundle_of_more_runs_than_a_trace_has_spans_gives_the_first_of_them(monkeypatch):
    writer = BundleWriter((A,), frame_bytes=PAGE)
    for page in (10, 30, 20):
        writer.add(Run(0, page, 1), bytes(PAGE))
    _, index = writer.finish()
    assert [span.first_page for span in index.as_trace().spans] == [10, 30, 20]
    for module in (bundle_format, trace_format):
        monkeypatch.setattr(module, "MAX_SPANS", 2)
    found = index.as_trace()
    assert [span.first_page for span in found.spans] == [10, 30]
    assert Trace.decode(found.encode()) == found
