"""Which accesses are readers, and how far ahead of them is fetched: claims over a pure book."""

import itertools
import random

from hotstart.core.span import PAGE, Span
from lazyfs.streams import (
    FIRST_BYTES,
    FIRST_GROWTH,
    MOST_CAUTION,
    MOST_STREAMS,
    PROVEN_BYTES,
    SEQUENTIAL_ACCESSES,
    SLACK_BYTES,
    UNIT_BYTES,
    Streams,
)

MIB = 1 << 20
SIZE = 10 << 30
LIMIT = 64 * MIB
EACH = 128 << 10
PROVEN = max(SEQUENTIAL_ACCESSES, -(-PROVEN_BYTES // EACH))
"""Accesses of EACH that make a sequential reader."""


def read(streams, accesses, limit=LIMIT):
    """Note accesses; return what was to be fetched after each."""
    return [streams.note(access, limit)[1] for access in accesses]


def sequence(start, length, each=EACH):
    return [Span(at, each) for at in range(start, start + length, each)]


def fetched(wanted):
    return sorted(itertools.chain.from_iterable(wanted))


def test_a_sequential_reader_is_run_ahead_of_once_it_has_proven_itself():
    wanted = read(Streams(SIZE), sequence(0, 4 * MIB))
    assert not any(wanted[: PROVEN - 1])
    assert wanted[PROVEN - 1] == [Span(PROVEN * EACH, FIRST_GROWTH * PROVEN * EACH)]


def test_what_is_fetched_for_a_sequential_reader_is_all_that_lies_ahead_and_once():
    wanted = fetched(read(Streams(SIZE), sequence(0, 256 * MIB)))
    assert wanted[0].offset == PROVEN * EACH
    assert all(a.end == b.offset for a, b in itertools.pairwise(wanted))
    assert wanted[-1].end >= 256 * MIB + LIMIT - UNIT_BYTES


def test_a_window_grows_with_what_the_reader_has_proven_up_to_what_the_link_needs():
    streams = Streams(SIZE)
    windows = []
    for access in sequence(0, 64 * MIB):
        stream, _ = streams.note(access, LIMIT)
        windows.append(stream.left() if stream else 0)
    assert windows[8] <= FIRST_BYTES
    assert max(windows) <= LIMIT
    assert windows[-1] > LIMIT - 2 * UNIT_BYTES


def test_a_wide_window_moves_on_in_large_steps():
    wanted = read(Streams(SIZE), sequence(0, 256 * MIB))
    late = fetched(wanted[len(wanted) // 2 :])
    assert min(span.length for span in late) >= UNIT_BYTES


def test_nothing_beyond_the_device_is_fetched():
    size = 8 * MIB + PAGE
    wanted = fetched(read(Streams(size), sequence(0, 4 * MIB)))
    assert wanted[-1].end == size


def test_readers_at_once_are_told_apart():
    streams = Streams(SIZE)
    starts = [number * (1 << 30) for number in range(8)]
    interleaved = [
        access
        for round_of in zip(*(sequence(start, 16 * MIB) for start in starts), strict=True)
        for access in round_of
    ]
    wanted = fetched(read(streams, interleaved))
    for start in starts:
        mine = [span for span in wanted if start <= span.offset < start + (1 << 30)]
        assert mine[0].offset == start + PROVEN * EACH
        assert all(a.end == b.offset for a, b in itertools.pairwise(mine))


def test_a_reader_is_known_in_the_noise_of_random_ones():
    source = random.Random(5)
    noisy = []
    for access in sequence(3 << 30, 8 * MIB):
        noisy.append(access)
        noisy += [Span(source.randrange(SIZE // PAGE) * PAGE, PAGE) for _ in range(4)]
    wanted = fetched(read(Streams(SIZE), noisy))
    assert wanted
    assert all(3 << 30 < span.offset < 4 << 30 for span in wanted)


def test_threads_that_share_one_front_are_one_reader():
    """Each takes the next mebibyte; they come slightly out of order."""
    source, order = random.Random(6), list(range(200))
    for at in range(0, 200, 4):
        order[at : at + 4] = source.sample(order[at : at + 4], 4)
    streams = Streams(SIZE)
    read(streams, sequence(0, 4 * MIB))
    wanted = fetched(read(streams, [Span((4 + n) * (MIB // 4), MIB // 4) for n in order]))
    assert wanted[-1].end > 64 * MIB
    assert streams.caution == 0


def test_random_readers_never_trigger():
    for seed in range(5):
        source = random.Random(seed)
        accesses = [Span(source.randrange((1 << 30) // PAGE) * PAGE, PAGE) for _ in range(2000)]
        assert not any(read(Streams(1 << 30), accesses))


def test_random_faults_with_the_kernels_read_around_never_trigger():
    """A touch of mapped memory raises two events of 64 KiB that lie end to end."""
    source = random.Random(1)
    accesses = []
    for _ in range(1500):
        at = source.randrange(SIZE >> 17) << 17
        accesses += [Span(at, 64 << 10), Span(at + (64 << 10), 64 << 10)]
    assert not any(read(Streams(SIZE), accesses))


def test_a_strided_reader_gets_the_terms_to_come_and_nothing_between():
    stride, length = 8 * MIB, 64 << 10
    wanted = fetched(read(Streams(SIZE), [Span(n * stride, length) for n in range(40)]))
    assert wanted
    assert {span.offset % stride for span in wanted} == {0}
    assert {span.length for span in wanted} == {length}
    offsets = [span.offset for span in wanted]
    assert len(set(offsets)) == len(offsets), "each term once"
    assert offsets == list(range(offsets[0], offsets[-1] + 1, stride))


def test_a_strided_reader_of_several_accesses_a_term_gets_whole_terms():
    stride, length = 8 * MIB, 256 << 10
    accesses = [one for n in range(40) for one in sequence(n * stride, length)]
    wanted = fetched(read(Streams(SIZE), accesses))
    assert {span.offset % stride for span in wanted} == {0}
    assert {span.length for span in wanted} == {length}


def test_a_reader_that_goes_backwards_is_run_ahead_of_downwards():
    start, each = 1 << 30, MIB
    wanted = read(Streams(SIZE), [Span(start - n * each, each) for n in range(32)])
    assert fetched(wanted)
    assert all(span.end <= start for span in fetched(wanted))
    assert fetched(wanted)[0].offset < start - 32 * each


def test_interleaved_strided_readers_are_told_apart():
    stride, length = 16 * MIB, PAGE
    accesses = [Span(base + n * stride, length) for n in range(30) for base in (0, 5 * MIB + PAGE)]
    rests = {span.offset % stride for span in fetched(read(Streams(SIZE), accesses))}
    assert rests == {0, 5 * MIB + PAGE}


def test_a_reader_that_has_met_nothing_absent_gets_nothing_until_it_does():
    streams = Streams(SIZE)
    local = [streams.note(access, LIMIT, missed=False)[1] for access in sequence(0, 32 * MIB)]
    assert not any(local)
    _, spans = streams.note(Span(32 * MIB, 128 << 10), LIMIT, missed=True)
    assert spans == [Span(32 * MIB + (128 << 10), LIMIT)]


def jumpy(records, each):
    """A reader of whole records here and there: it looks sequential and never goes on."""
    source = random.Random(2)
    for _ in range(records):
        yield from sequence(source.randrange(SIZE // each) * each, each)


def test_windows_shrink_when_what_was_fetched_is_not_read():
    streams = Streams(SIZE)
    wanted = read(streams, jumpy(400, 2 * MIB))
    early, late = wanted[: len(wanted) // 4], wanted[-len(wanted) // 4 :]
    assert streams.caution > 0
    wasted_early = sum(span.length for span in fetched(early))
    wasted_late = sum(span.length for span in fetched(late))
    assert wasted_late < wasted_early / 4


def test_caution_is_bounded_and_forgotten_when_readers_go_on():
    streams = Streams(SIZE)
    read(streams, jumpy(150, 8 * MIB))
    assert streams.caution <= MOST_CAUTION
    streams.caution = 2
    for number in range(2 * MOST_STREAMS):
        read(streams, sequence(number * 96 * MIB, 64 * MIB, MIB), limit=8 * MIB)
    assert streams.caution == 0


def test_a_reader_that_skips_what_was_fetched_gets_a_smaller_window():
    streams = Streams(SIZE)
    read(streams, sequence(0, 16 * MIB))
    stream, _ = streams.note(Span(16 * MIB, 128 << 10), LIMIT)
    before = stream.run
    again, _ = streams.note(Span(stream.position + SLACK_BYTES + PAGE, PAGE), LIMIT)
    assert again is stream
    assert stream.run < before * 0.6
    assert stream.wasted > SLACK_BYTES


def test_what_is_remembered_is_bounded_and_the_forgotten_are_told():
    streams = Streams(SIZE)
    read(streams, [Span(n * 3 * MIB + n * n * PAGE, PAGE) for n in range(500)])
    told = streams.take_retired()
    assert len(told) == 500 - MOST_STREAMS
    assert streams.take_retired() == []


def test_what_was_read_is_given_once_and_not_before_the_lag():
    streams, given = Streams(SIZE), []
    for access in sequence(0, 64 * MIB):
        stream, _ = streams.note(access, LIMIT)
        span = stream and streams.take_read(stream, 16 * MIB, 8 * MIB)
        if span:
            given.append(span)
            assert span.end <= stream.position - 16 * MIB
    assert given[0].offset == 0
    assert all(a.end == b.offset for a, b in itertools.pairwise(given))
    assert given[-1].end >= 40 * MIB


def test_equal_accesses_give_equal_answers():
    accesses = [*jumpy(50, 2 * MIB), *sequence(0, 8 * MIB)]
    assert read(Streams(SIZE), accesses) == read(Streams(SIZE), accesses)
