"""Working sets: every recorded page once, early pages early, few runs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.store.page_runs import Run
from snapshotter.working_set import bridge, stretches, union

runs = st.lists(
    st.builds(Run, st.integers(0, 2), st.integers(0, 60), st.integers(1, 9)), max_size=30
)


def pages(order):
    return [(r.device, page) for r in order for page in range(r.first_page, r.end_page)]


def test_the_first_recording_keeps_its_order_and_others_add_what_is_new():
    first = [Run(0, 9, 1), Run(0, 3, 2)]
    second = [Run(0, 4, 3), Run(1, 0, 1)]
    assert union([first, second]) == [Run(0, 9, 1), Run(0, 3, 2), Run(0, 5, 2), Run(1, 0, 1)]


@given(st.lists(runs, max_size=4))
@settings(derandomize=True)
def test_a_union_has_each_recorded_page_exactly_once(recordings):
    found = pages(union(recordings))
    assert len(found) == len(set(found))
    assert set(found) == {page for recording in recordings for page in pages(recording)}


@given(runs, st.integers(1, 16))
@settings(derandomize=True)
def test_stretches_move_no_page_out_of_its_stretch(recording, size):
    order = union([recording])
    before, after = pages(order), pages(stretches(order, size))
    for start in range(0, len(before), size):
        assert sorted(before[start : start + size]) == after[start : start + size]


def test_neighbours_within_a_stretch_become_one_run():
    assert stretches([Run(0, 5, 1), Run(0, 4, 1), Run(0, 6, 2)]) == [Run(0, 4, 4)]


@given(runs, st.integers(0, 4))
@settings(derandomize=True)
def test_bridges_add_only_the_pages_of_short_gaps(recording, gap):
    order = stretches(union([recording]))
    bridged = bridge(order, gap)
    assert set(pages(order)) <= set(pages(bridged))
    assert len(bridged) <= len(order)
    added = len(pages(bridged)) - len(pages(order))
    assert added <= gap * (len(order) - len(bridged))


def test_a_bridge_never_leads_backwards_or_to_another_file():
    order = [Run(0, 9, 1), Run(0, 3, 2), Run(0, 6, 1), Run(1, 7, 1)]
    assert bridge(order, 2) == [Run(0, 9, 1), Run(0, 3, 4), Run(1, 7, 1)]
