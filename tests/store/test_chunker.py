"""The chunker: nothing lost, always on pages, and a change moves only the cuts near it."""

import io
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE
from hotstart.store.chunker import AVERAGE, SMALL_AVERAGE, cut, cut_points

DERANDOMISED = settings(derandomize=True, max_examples=40, deadline=None)
BUFFER = random.Random(7).randbytes(12 << 20)


def pieces(buffer, **limits):
    cuts = cut_points(buffer, **limits)
    return [buffer[start:end] for start, end in itertools.pairwise([0, *cuts])]


@given(st.binary(max_size=3 * PAGE), st.integers(0, 60), st.sampled_from([4, 8, 32]))
@DERANDOMISED
def test_chunks_put_together_are_the_content(content, repeat, average_pages):
    buffer = content * repeat
    found = pieces(buffer, average=average_pages * PAGE)
    assert b"".join(found) == buffer
    assert all(len(piece) % PAGE == 0 for piece in found[:-1])
    assert all(0 < len(piece) <= 4 * average_pages * PAGE for piece in found)


@pytest.mark.parametrize("average", [AVERAGE, SMALL_AVERAGE])
def test_lengths_keep_to_their_limits_and_average(average):
    lengths = [len(piece) for piece in pieces(BUFFER, average=average)]
    assert min(lengths[:-1]) >= average // 4
    assert max(lengths) <= 4 * average
    assert 0.8 * average < len(BUFFER) / len(lengths) < 1.25 * average


def test_no_content_has_no_chunks():
    assert cut_points(b"") == []
    assert list(cut(io.BytesIO(b"").read)) == []


def test_constant_content_is_cut_into_equal_chunks():
    lengths = {len(piece) for piece in pieces(bytes(8 << 20))}
    assert len(lengths) == 1


@given(position=st.integers(0, len(BUFFER) // PAGE - 1), seed=st.integers(0, 1 << 16))
@DERANDOMISED
def test_a_changed_page_changes_few_chunks(position, seed):
    changed = bytearray(BUFFER)
    changed[position * PAGE : (position + 1) * PAGE] = random.Random(seed).randbytes(PAGE)
    before = set(pieces(BUFFER))
    new = [piece for piece in pieces(bytes(changed)) if piece not in before]
    assert 1 <= len(new) <= 12


@given(position=st.integers(0, len(BUFFER) // PAGE), pages=st.integers(1, 40))
@DERANDOMISED
def test_inserted_pages_change_few_chunks(position, pages):
    inserted = random.Random(pages).randbytes(pages * PAGE)
    changed = BUFFER[: position * PAGE] + inserted + BUFFER[position * PAGE :]
    before = set(pieces(BUFFER))
    new = [piece for piece in pieces(changed) if piece not in before]
    assert 1 <= len(new) <= 14


@pytest.mark.parametrize("step", [1 << 20, 4096, 1_000_003])
def test_a_stream_is_cut_like_the_whole_buffer(step):
    source = io.BytesIO(BUFFER)
    assert list(cut(lambda wanted: source.read(min(wanted, step)))) == pieces(BUFFER)


def test_a_stream_that_ends_with_a_window_is_cut_like_the_whole_buffer():
    buffer = BUFFER[: 8 << 20]
    assert list(cut(io.BytesIO(buffer).read)) == pieces(buffer)


@pytest.mark.parametrize(
    "limits",
    [
        {"average": 1000},
        {"average": 0},
        {"minimum": 100},
        {"minimum": AVERAGE + PAGE},
        {"maximum": PAGE},
        {"maximum": AVERAGE + 1},
    ],
)
def test_limits_that_are_not_whole_ordered_pages_are_refused(limits):
    with pytest.raises(ValueError, match="whole pages"):
        cut_points(b"x", **limits)
