"""A start bundle is asked for until it is there, and again once the cache has lost something."""

import threading

import pytest

from hotstart.core.errors import Unavailable
from runtime.bundle_fetches import BundleFetches

PLAN = object()


class Prefetches:
    """Notes what is asked for."""

    def __init__(self):
        self.removals = 0
        self.names = []
        self.outcomes = []

    def prefetch(self, name, plan):
        self.names.append(name)
        return len(self.names)

    def wait(self, job):
        outcome = self.outcomes.pop(0) if self.outcomes else ""
        if isinstance(outcome, Exception):
            raise outcome
        return {"stopped": outcome}


@pytest.fixture
def prefetches():
    return Prefetches()


@pytest.fixture
def fetches(prefetches):
    return BundleFetches(prefetches)


def fetch(fetches, name="snap"):
    """Begin, and wait for the thread's end if there is one."""
    before = set(threading.enumerate())
    fetches.begin(name, PLAN)
    for thread in set(threading.enumerate()) - before:
        thread.join()


def test_what_has_arrived_is_not_asked_for_again(prefetches, fetches):
    fetch(fetches)
    fetch(fetches)
    assert prefetches.names == ["snap"]


def test_what_the_cache_may_have_lost_is_asked_for_once_more(prefetches, fetches):
    fetch(fetches)
    prefetches.removals += 1
    fetch(fetches)
    fetch(fetches)
    assert prefetches.names == ["snap", "snap"]


@pytest.mark.parametrize("outcome", [Unavailable("the store is away"), "unused"])
def test_what_has_not_arrived_whole_is_asked_for_again(prefetches, fetches, outcome):
    prefetches.outcomes = [outcome]
    fetch(fetches)
    fetch(fetches)
    assert prefetches.names == ["snap", "snap"]


def test_a_loss_during_the_fetch_counts(prefetches, fetches):
    lose = prefetches.wait

    def wait(job):
        prefetches.removals += 1
        return lose(job)

    prefetches.wait = wait
    fetch(fetches)
    prefetches.wait = lose
    fetch(fetches)
    assert prefetches.names == ["snap", "snap"]
