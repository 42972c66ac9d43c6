import math

import pytest

from bench.samples import (
    Sample,
    StartsFailed,
    percentile,
    ratios,
    refuse_failures,
    summarize,
)


def sample(path, ready_ms, **fields):
    return Sample(path=path, round=0, ready_ms=ready_ms, wall_ms=ready_ms + 5, **fields)


def test_a_percentile_is_a_value_that_was_measured():
    assert percentile([5, 1, 4, 2, 3], 0.5) == 3
    assert percentile([5, 1, 4, 2, 3], 0.99) == 5
    assert percentile(range(1, 201), 0.99) == 198


def test_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_wrong_and_missing_answers_count_as_failed_and_in_no_median():
    rows = [
        sample("cold", 100.0, fetched_bytes=10),
        sample("cold", 300.0, fetched_bytes=30),
        sample("cold", 1.0, answer_ok=False),
        sample("cold", math.nan, answer_ok=False, problem="no answer"),
    ]
    summary = summarize(rows)["cold"]
    assert (summary["n"], summary["failed"]) == (2, 2)
    assert (summary["median_ms"], summary["p99_ms"]) == (200.0, 300.0)
    assert summary["median_fetched_bytes"] == 20


def test_a_path_that_only_failed_has_no_figures():
    summary = summarize([sample("restore", math.nan, answer_ok=False)])
    assert summary["restore"] == {"n": 0, "median_ms": None, "p99_ms": None, "failed": 1}
    assert ratios(summary) == {}


def test_ratios_divide_the_medians_of_one_run():
    summary = summarize(
        [sample("cold", 4000.0), sample("restore", 80.0), sample("criu-plain", 200.0)]
    )
    assert ratios(summary) == {"cold/restore": 50.0, "restore/criu-plain": 0.4}


def test_a_failed_sample_has_no_number_in_the_document():
    document = sample("cold", math.nan, answer_ok=False, problem="why").as_dict()
    assert document["ready_ms"] is None
    assert document["problem"] == "why"


def test_a_run_with_a_wrong_answer_ends_with_a_sentence_that_counts_them():
    good = [sample("cold", 1.0), sample("restore", 1.0)]
    refuse_failures(summarize(good))
    wrong = [sample("restore", 1.0, answer_ok=False)] * 2
    with pytest.raises(StartsFailed, match=r"^2 of 4 starts .*: restore 2; "):
        refuse_failures(summarize(good + wrong))
