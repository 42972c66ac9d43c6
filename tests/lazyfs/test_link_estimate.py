"""How many requests at a time a link needs, from the requests that went over it."""

from lazyfs.link_estimate import LEAST, MOST, UNKNOWN, LinkEstimate

MIB = 1 << 20


def link(latency_s, bytes_per_s, *, slower=1.0):
    estimate = LinkEstimate()
    for length in (64 << 10, 128 << 10, MIB, 2 * MIB, 4 * MIB):
        estimate.note(length, slower * (latency_s + length / bytes_per_s))
    return estimate


def test_nothing_is_assumed_before_anything_was_measured():
    estimate = LinkEstimate()
    assert (estimate.in_flight, estimate.latency_s, estimate.bytes_per_s) == (UNKNOWN, 0, 0)


def test_a_near_link_needs_few_large_requests():
    near = link(0.0005, 1e9)
    assert near.in_flight == LEAST
    assert near.request_bytes == 4 * MIB


def test_a_far_link_needs_many_smaller_ones():
    far = link(0.015, 90e6)
    assert far.in_flight == MOST
    assert far.request_bytes == 2 * MIB
    assert far.window_bytes > 2 * link(0.0005, 1e9).window_bytes * 0.9


def test_between_them_the_number_follows_the_latency():
    numbers = [link(ms / 1e3, 400e6).in_flight for ms in (0.5, 4, 8, 12, 30)]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) >= 4


def test_what_the_load_of_the_moment_adds_is_no_reason_to_send_more():
    estimate = link(0.0005, 1e9)
    for _ in range(20):
        estimate.note(4 * MIB, 0.5)
        estimate.note(64 << 10, 0.1)
    assert estimate.in_flight == LEAST


def test_a_link_that_has_become_slow_is_seen_when_old_requests_are_forgotten():
    estimate = link(0.0005, 1e9)
    for _ in range(100):
        estimate.note(64 << 10, 0.015)
        estimate.note(2 * MIB, 0.04)
    assert estimate.in_flight == MOST
