"""One lock a name, for steps that may take long and must not keep other names waiting.

A lock exists while somebody holds it or waits for it, so that the book is as long as what is under
way. Not reentrant.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NameLocks:
    """Locks by name; any thread may hold any number of them."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._given_back = threading.Condition()

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Hold the lock of ``name``, after whoever holds it now."""
        with self._given_back:
            self._given_back.wait_for(lambda: name not in self._held)
            self._held.add(name)
        try:
            yield
        finally:
            with self._given_back:
                self._held.discard(name)
                self._given_back.notify_all()
