import pytest

from bench.paired import compare, pairs
from bench.samples import Sample


def sample(path, number, ms, **fields):
    return Sample(path=path, round=number, ready_ms=ms, wall_ms=ms, **fields)


def test_only_rounds_in_which_both_gave_a_right_answer_are_paired():
    samples = [
        sample("a", 0, 1.0),
        sample("b", 0, 2.0),
        sample("a", 1, 3.0),
        sample("b", 1, 4.0, answer_ok=False),
        sample("b", 2, float("nan")),
        sample("a", 2, 5.0),
        sample("b", 3, 8.0),
        sample("a", 3, 7.0),
        sample("c", 3, 9.0),
    ]
    assert pairs(samples, "a", "b", lambda s: s.ready_ms) == [(1.0, 2.0), (7.0, 8.0)]


def test_the_bounds_hold_the_median_and_widen_with_the_spread():
    narrow, wide = compare([1.0, 1.01, 0.99, 1.0, 1.02]), compare([1.0, 1.5, 0.5, 1.0, 2.0])
    assert narrow.lower <= narrow.median <= narrow.upper
    assert wide.upper - wide.lower > narrow.upper - narrow.lower
    assert (wide.lower, wide.upper) == (0.5, 2.0) or wide.lower < wide.median < wide.upper


def test_more_rounds_give_a_narrower_bound():
    few, many = compare([1.0, 2.0, 3.0] * 2), compare([1.0, 2.0, 3.0] * 20)
    assert many.upper - many.lower < few.upper - few.lower


def test_equal_values_give_that_value_as_bound_and_none_gives_none():
    assert compare([2.0] * 5).as_dict() == {"median": 2.0, "lower": 2.0, "upper": 2.0, "n": 5}
    assert compare([]) is None


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0, 5.0]])
def test_the_same_samples_are_judged_the_same_every_time(values):
    assert compare(values) == compare(values)
