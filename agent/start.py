"""A start between the reserving of a name and a running container. Its table makes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from agent.container_errors import StoppedAtStart
from agent.records import ContainerRecord
from hotstart.core.errors import HotstartError
from hotstart.kernel.cgroup import Group
from runtime.container_directory import ContainerDirectory
from runtime.image_access import Mounted

Commit = Callable[[ContainerRecord, tuple[Mounted, ...]], None]


class Start:
    """``commit`` ends it well; without one its table undoes it. ``directory`` is made and empty."""

    def __init__(
        self,
        name: str,
        directory: ContainerDirectory,
        stopping: threading.Event,
        group: Callable[[], Group],
        commit: Commit,
    ) -> None:
        self.directory = directory
        self.committed = False
        self._name = name
        self._stopping = stopping
        self._group = group
        self._commit = commit

    def check(self) -> None:
        """Raise StoppedAtStart if it is not to become a container any more."""
        if self._stopping.is_set():
            raise StoppedAtStart(self._name)

    def kill(self) -> None:
        """End what runs of it already; whoever waits for it to become ready then gives up."""
        with suppress(HotstartError, OSError):  # a call's own end calls this, and nobody hears it
            self._group().kill()

    def commit(self, record: ContainerRecord, mounted: tuple[Mounted, ...]) -> None:
        """Make it a running container that owns what ``record`` says, and ``mounted``.

        Raises StoppedAtStart.
        """
        self._commit(record, mounted)
        self.committed = True
