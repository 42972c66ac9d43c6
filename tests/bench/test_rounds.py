import pytest

from bench.rounds import order_of_round, run_rounds
from bench.samples import Sample
from hotstart.core.errors import Unavailable
from hotstart.core.progress import NullSink


class Recorded:
    """A path that only writes down when it was measured."""

    def __init__(self, name, seen, error=None):
        self.name = name
        self._seen = seen
        self._error = error

    def measure(self, round_number):
        self._seen.append((round_number, self.name))
        if self._error is not None:
            raise self._error
        return Sample(path=self.name, round=round_number, ready_ms=1.0, wall_ms=1.0)


class Events:
    def __init__(self):
        self.seen = []

    def update(self, event):
        self.seen.append(event)


def test_the_order_turns_round_from_one_round_to_the_next():
    seen = []
    paths = [Recorded(name, seen) for name in "abc"]
    run_rounds(paths, 3, NullSink())
    assert "".join(name for _, name in seen) == "abccbaabc"
    assert [n for n, _ in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_each_path_follows_each_neighbour():
    paths = [Recorded(name, []) for name in "ab"]
    orders = ["".join(p.name for p in order_of_round(paths, n)) for n in range(4)]
    assert orders == ["ab", "ba", "ab", "ba"]


def test_a_path_that_fails_is_a_failed_sample_and_the_rounds_go_on():
    seen, events = [], Events()
    paths = [Recorded("broken", seen, Unavailable("no store")), Recorded("whole", seen)]
    samples = run_rounds(paths, 2, events)
    assert [(s.path, s.answer_ok) for s in samples] == [
        ("broken", False),
        ("whole", True),
        ("whole", True),
        ("broken", False),
    ]
    assert samples[0].problem == "no store"
    assert [event.done for event in events.seen] == [1, 2, 3, 4]


def test_a_bug_in_a_path_is_not_turned_into_a_sample():
    with pytest.raises(ZeroDivisionError):
        run_rounds([Recorded("bug", [], ZeroDivisionError())], 1, NullSink())


def test_an_error_while_an_interrupt_is_undone_does_not_hide_it():
    class Interrupted(Recorded):
        def measure(self, round_number):
            try:
                raise KeyboardInterrupt
            finally:
                raise Unavailable("the agent is gone")

    with pytest.raises(KeyboardInterrupt):
        run_rounds([Interrupted("a", [])], 1, NullSink())
