"""The loop of a page session leaves no fault behind."""

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from snapshotter.page_session import PageSession
from snapshotter.session_spec import SessionSpec


class Holder:
    """Holds nothing."""

    def drop_all(self):
        """Nothing is held."""

    def drop(self, name):
        """Nothing is held."""


class QueuedFault:
    """A space whose descriptor stays silent: a fault was read while a page was installed."""

    memory_index, ranges, name = 0, (), "space"

    def __init__(self, descriptor):
        self.uffd = SimpleNamespace(fd=descriptor)
        self.waiting = deque([0x10000])
        self.served = threading.Event()

    def serve_waiting(self):
        if self.waiting:
            self.waiting.popleft()
            self.served.set()

    def close(self):
        """The test owns the descriptor."""


@pytest.fixture
def silent():
    descriptor = os.eventfd(0)
    yield descriptor
    os.close(descriptor)


def test_a_fault_that_was_read_while_a_page_was_installed_is_answered(tmp_path, silent):
    with ThreadPoolExecutor(1) as pool:
        spec = SessionSpec("s", str(tmp_path), str(tmp_path), ())
        session = PageSession(spec, (), Holder(), pool, lambda _: None)
        space = QueuedFault(silent)
        session._add(space)
        session.start()
        try:
            assert space.served.wait(10)
        finally:
            session.ask("close")
            session.join()
