"""A batch installs what was looked up before it was allowed, and never into a changed mapping."""

import errno

import pytest

from hotstart.core.span import PAGE
from snapshotter.install_batch import InstallBatch, Progress
from snapshotter.page_counters import PageCounters
from snapshotter.page_ranges import PageRanges, Piece
from snapshotter.working_set_loader import LoadedRun

BASE = 0x100000
RUNS = [LoadedRun(0, n * 2 * PAGE, PAGE, 0x900000 + n * PAGE) for n in range(5)]


class Space:
    """Installs into a list; ``script`` gives the errno of each call that needs care."""

    def __init__(self, early=(), script=()):
        self.ranges = PageRanges([Piece(BASE, BASE + 10 * PAGE, 0)])
        self.changes = 0
        self.installed = []
        self._early = list(early)
        self._script = list(script)

    def waiting_for(self, offset, length):
        return self.ranges.within(BASE + offset, BASE + offset + length)

    def install_many(self, copies, pieces):
        many = self._early.pop(0) if self._early else (len(pieces), 0)
        for piece in pieces[: many[0]]:
            self._take(piece)
        return many

    def install(self, piece, source):
        number = self._script.pop(0) if self._script else 0
        if number == errno.EAGAIN:
            self.changes += 1
        if not number:
            self._take(piece)
        return number

    def give_up(self, start, end):
        self.ranges.cut(start, end)

    def _take(self, piece):
        self.ranges.cut(piece.start, piece.end)
        self.installed.append(piece.start)


def wanted(runs=RUNS):
    return [BASE + run.offset for run in runs]


def batch(space):
    counters = PageCounters()
    return InstallBatch(space, RUNS, counters), counters


def test_everything_is_installed_in_order():
    space = Space()
    one, counters = batch(space)
    assert one.install(finished=False) is Progress.DONE
    assert space.installed == wanted()
    assert counters.working_set_pages == len(RUNS)


def test_before_the_mapping_is_known_it_waits_and_goes_on_where_it_was():
    space = Space(early=[(2, errno.ENOENT)], script=[errno.ENOENT])
    one, _ = batch(space)
    assert one.install(finished=False) is Progress.TOO_EARLY
    assert space.installed == wanted(RUNS[:2])
    assert one.install(finished=False) is Progress.DONE
    assert space.installed == wanted()


def test_afterwards_an_unknown_page_is_given_up_and_the_rest_installed():
    space = Space(early=[(1, errno.ENOENT)], script=[errno.ENOENT])
    one, _ = batch(space)
    assert one.install(finished=True) is Progress.DONE
    assert space.installed == [wanted()[0], *wanted()[2:]]
    assert space.ranges.find(wanted()[1]) is None


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EEXIST])
def test_a_page_that_needs_care_gets_it_and_the_rest_follows(number):
    space = Space(early=[(3, number)])
    one, _ = batch(space)
    assert one.install(finished=True) is Progress.DONE
    assert space.installed == wanted()


def test_changed_mappings_end_the_batch_and_its_runs_are_looked_up_again():
    space = Space(early=[(1, errno.EAGAIN)], script=[errno.EAGAIN])
    one, _ = batch(space)
    assert one.install(finished=True) is Progress.OUTDATED
    again, _ = batch(space)
    assert again.install(finished=True) is Progress.DONE
    assert space.installed == wanted(), "what was installed before is not installed twice"


def test_a_change_that_came_in_between_is_seen_before_the_first_copy():
    space = Space()
    one, _ = batch(space)
    space.changes += 1
    assert one.install(finished=True) is Progress.OUTDATED
    assert space.installed == []
