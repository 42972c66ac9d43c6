"""Fetched bytes go only where they are still waited for."""

import errno
from types import SimpleNamespace

from hotstart.core.span import PAGE
from snapshotter.background_installer import BackgroundInstaller
from snapshotter.page_counters import PageCounters
from snapshotter.page_ranges import Piece


class Space:
    """Two places wait for the same bytes; the first install finds that mappings have changed."""

    def __init__(self):
        self.installed = []

    def waiting_for(self, offset, length):
        return [Piece(at, at + PAGE, offset) for at in (0x10000, 0x20000)]

    def install(self, piece, source):
        self.installed.append(piece.start)
        return errno.EAGAIN


def test_a_place_that_was_looked_up_before_the_mappings_changed_gets_nothing():
    buffer = SimpleNamespace(view=memoryview(bytearray(PAGE)), address=0)
    installer = BackgroundInstaller(None, (), buffer, PageCounters(), lambda *_: False)
    space = Space()
    installer.deliver(space, 0, bytes(PAGE))
    assert space.installed == [0x10000]
