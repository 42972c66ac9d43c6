"""Recorded pages are read as they become local, and as few long runs where everything is."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from hotstart.core.span import PAGE
from snapshotter import working_set_loader
from snapshotter.session_spec import PageRun
from snapshotter.working_set_loader import WorkingSetLoader, joined


class File:
    """A memory file whose page n is full of the byte n; ``absent`` pages are not local."""

    def __init__(self, pages=200, absent=()):
        self.spec = SimpleNamespace(size_bytes=pages * PAGE)
        self.absent = set(absent)

    def local(self, offset, length):
        return self.absent.isdisjoint(range(offset // PAGE, (offset + length) // PAGE))

    def read_local(self, offset, view):
        for at in range(0, len(view), PAGE):
            view[at : at + PAGE] = bytes([(offset + at) // PAGE]) * PAGE


def loaded(loader):
    return [(run.file, run.offset // PAGE, run.length // PAGE) for run in loader.loaded]


ORDER = [PageRun(0, 50, 2), PageRun(0, 10, 1), PageRun(1, 5, 1), PageRun(0, 54, 1)]


def test_where_everything_is_local_runs_are_joined_over_short_gaps():
    loader = WorkingSetLoader(ORDER, [File(), File()])
    loader.load(100)
    assert loaded(loader) == [(0, 10, 1), (0, 50, 5), (1, 5, 1)]
    assert not loader.unread


def test_while_pages_arrive_the_order_of_use_is_kept():
    file = File(absent=[10])
    loader = WorkingSetLoader(ORDER, [file, File()])
    loader.load(100)
    assert loaded(loader) == [(0, 50, 2), (1, 5, 1), (0, 54, 1)]
    file.absent.clear()
    loader.load(100)
    assert loaded(loader)[-1] == (0, 10, 1)
    assert not loader.unread


@given(st.lists(st.builds(PageRun, st.integers(0, 1), st.integers(0, 99), st.integers(1, 9))))
def test_joining_loses_no_page_and_repeats_none(order):
    def pages(runs):
        return [
            (run.file, page) for run in runs for page in range(run.first, run.first + run.pages)
        ]

    found = pages(joined(order))
    assert set(pages(order)) <= set(found)
    assert found == sorted(set(found))


def test_beyond_the_arena_what_is_used_last_is_left_out(monkeypatch):
    monkeypatch.setattr(working_set_loader, "ARENA_BYTES", 4 * PAGE)
    loader = WorkingSetLoader(ORDER, [File(), File()])
    loader.load(100)
    assert loaded(loader) == [(0, 10, 1), (0, 50, 2), (1, 5, 1)]
