"""Spans behave as sets of integers do."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE, Span, align_up, merge, pages_of

SPANS = st.builds(Span, st.integers(0, 60), st.integers(0, 20))
derandomized = settings(derandomize=True)


def numbers(span):
    return set(range(span.offset, span.end))


@derandomized
@given(SPANS, SPANS)
def test_overlap_is_the_intersection(left, right):
    common = left.overlap(right)
    assert (numbers(common) if common else set()) == numbers(left) & numbers(right)


@derandomized
@given(SPANS, st.integers(1, 9))
def test_pieces_are_in_order_bounded_and_whole(span, size):
    pieces = list(span.split(size))
    assert all(0 < piece.length <= size for piece in pieces)
    assert [n for piece in pieces for n in range(piece.offset, piece.end)] == sorted(numbers(span))


@derandomized
@given(st.lists(SPANS, max_size=8))
def test_merging_keeps_every_number_and_leaves_no_neighbours(spans):
    merged = merge(spans)
    assert set().union(*map(numbers, merged)) == set().union(*map(numbers, spans))
    assert all(left.end < right.offset for left, right in itertools.pairwise(merged))


@derandomized
@given(st.lists(SPANS, max_size=8), st.integers(0, 10))
def test_merging_over_a_gap_joins_what_is_nearer(spans, gap):
    merged = merge(spans, gap)
    pairs = itertools.pairwise(merged)
    assert all(right.offset - left.end > gap for left, right in pairs)


@pytest.mark.parametrize(("size", "pages"), [(0, 0), (1, 1), (PAGE, 1), (PAGE + 1, 2)])
def test_a_started_page_is_a_page(size, pages):
    assert pages_of(size) == pages
    assert align_up(size) == pages * PAGE
