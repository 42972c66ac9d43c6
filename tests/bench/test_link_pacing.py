import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.link_pacing import Pacer

RATE = 90e6


def test_one_burst_takes_its_length_over_the_rate():
    assert Pacer(RATE).due(9_000_000, now_s=5.0) == pytest.approx(5.1)


def test_no_rate_delays_nothing():
    pacer = Pacer(0)
    assert [pacer.due(1 << 30, now_s=3.0) for _ in range(3)] == [3.0, 3.0, 3.0]


def test_lateness_of_the_caller_is_not_lost_while_data_keeps_coming():
    pacer = Pacer(RATE)
    due = pacer.due(900_000, now_s=0.0)
    late = pacer.due(900_000, now_s=due + 0.005)
    assert late == pytest.approx(0.02)


def test_idle_time_is_not_saved_up():
    pacer = Pacer(RATE)
    pacer.due(900_000, now_s=0.0)
    pacer.idle()
    assert pacer.due(900_000, now_s=10.0) == pytest.approx(10.01)


def test_idle_on_a_busy_wire_waits_for_the_wire():
    pacer = Pacer(RATE)
    pacer.due(9_000_000, now_s=0.0)
    pacer.idle()
    assert pacer.due(9_000_000, now_s=0.05) == pytest.approx(0.2)


@settings(derandomize=True, deadline=None)
@given(
    bursts=st.lists(
        st.tuples(st.integers(1, 1 << 20), st.floats(0, 0.01), st.booleans()), max_size=60
    )
)
def test_no_order_of_events_beats_the_rate(bursts):
    """Whatever the gaps, bytes never arrive before a wire of that rate could have carried them."""
    pacer, now, wire = Pacer(RATE), 0.0, 0.0
    sent = 0
    for length, gap, idle in bursts:
        if idle:
            pacer.idle()
        due = pacer.due(length, now)
        sent += length
        wire += length / RATE
        assert due >= wire - 1e-9
        now = max(now, due) + gap
