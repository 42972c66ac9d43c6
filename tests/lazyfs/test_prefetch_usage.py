"""What was prefetched and how much of it was read since."""

from hotstart.core.span import PAGE
from lazyfs.prefetch_usage import JUDGED_BYTES, WORTH, PrefetchUsage


def numbers(usage):
    return usage.prefetched_bytes // PAGE, usage.used_bytes // PAGE, usage.unused_bytes // PAGE


def test_what_nobody_has_read_is_unused():
    usage = PrefetchUsage(100)
    usage.brought(10, 20)
    assert numbers(usage) == (20, 0, 20)


def test_a_page_is_used_once_however_often_it_is_read():
    usage = PrefetchUsage(100)
    usage.brought(10, 20)
    usage.read(0, 15)
    usage.read(0, 15)
    assert numbers(usage) == (20, 5, 15)


def test_what_was_not_prefetched_counts_nowhere():
    usage = PrefetchUsage(100)
    usage.read(0, 50)
    usage.brought(60, 10)
    usage.read(0, 50)
    assert numbers(usage) == (10, 0, 10)


def test_what_was_read_counts_once_whether_prefetched_or_not():
    usage = PrefetchUsage(100)
    usage.brought(10, 10)
    usage.read(0, 15)
    usage.read(10, 20)
    assert usage.read_bytes == 30 * PAGE
    assert numbers(usage) == (10, 10, 0)


def test_the_last_chunk_may_reach_beyond_the_device():
    usage = PrefetchUsage(100)
    usage.brought(98, 4)
    usage.read(90, 20)
    assert numbers(usage) == (2, 2, 0)


def test_what_is_hardly_ever_read_is_wasted_but_not_judged_too_early():
    judged = JUDGED_BYTES // PAGE
    usage = PrefetchUsage(10 * judged)
    usage.brought(0, judged)
    assert not usage.is_wasted(0, 2 * judged)
    usage.brought(judged, 8)
    assert usage.is_wasted(0, 2 * judged)
    assert not usage.is_wasted(2 * judged, judged), "another stretch"
    usage.read(0, judged // WORTH)
    assert not usage.is_wasted(0, 2 * judged)
