"""The fill waits for quiet, and never for ever."""

import threading

from hotstart.core.errors import Unavailable
from runtime.background_fill import BackgroundFill
from tests.snapshotter.restored_tree import wait_for


class Prefetches:
    def __init__(self):
        self.names = []
        self.begun = threading.Event()

    def prefetch(self, name, plan):
        self.names.append(name)
        self.begun.set()
        if name == "broken":
            raise Unavailable("no worker")
        return 1

    def wait(self, job):
        return job


def test_it_begins_when_demand_has_stayed_the_same():
    prefetches = Prefetches()
    asked = iter(range(3))
    fill = BackgroundFill(prefetches, quiet_s=0.05, limit_s=60, step_s=0.01)
    fill.after_demand(("a", "b"), lambda: next(asked, 3))
    assert prefetches.names == []
    wait_for(lambda: prefetches.names == ["a", "b"], "the fill", 20)
    assert next(asked, None) is None  # demand was asked until it stood still


def test_it_begins_in_the_end_however_much_is_asked_for():
    prefetches = Prefetches()
    counter = iter(range(1_000_000))
    fill = BackgroundFill(prefetches, quiet_s=60, limit_s=0.05, step_s=0.01)
    fill.after_demand(("a",), lambda: next(counter))
    assert prefetches.begun.wait(20)


def test_an_error_that_nobody_expects_ends_one_fill_and_no_other():
    prefetches = Prefetches()

    def broken():
        raise ZeroDivisionError

    fill = BackgroundFill(prefetches, quiet_s=0.05, limit_s=60, step_s=0.01)
    fill.after_demand(("broken",), broken)
    fill.after_demand(("a",), lambda: 1)
    assert prefetches.begun.wait(20)
    wait_for(lambda: fill._thread is None, "the thread's end", 20)
    fill.after_demand(("b",), lambda: 1)
    wait_for(lambda: prefetches.names == ["a", "b"], "a later fill", 20)


def test_one_that_cannot_begin_keeps_no_other_from_it():
    prefetches = Prefetches()
    BackgroundFill(prefetches).at_once(("broken", "b"))
    assert prefetches.names == ["broken", "b"]
