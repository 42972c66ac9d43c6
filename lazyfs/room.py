"""Makes room for a fill when the disk is full: the fill worker's side.

What may leave the cache only the agent knows (it has the mounts), so the worker asks it on
RUN_DIR/room.sock (``RoomServer`` below answers there). While no agent answers, a full disk is a
passing trouble: tried again for as long as a reader is patient. When the agent says that nothing
may go, it is final at once, for that reader and no other; and for a moment nobody asks again.
Methods may be called from any thread and block while the agent deletes files.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hotstart.core.log import get_logger
from lazyfs.control_server import ControlServer
from lazyfs.disk_space import DiskFull, DiskFullForNow, FreeSpace, is_full

log = get_logger(__name__)

SOCKET = "room.sock"
ANSWER_S = 60.0
"""Deleting a file of many gigabytes takes seconds."""
QUIET_S = 0.5
"""After an answer that nothing may go nobody asks again for so long."""


class Room:
    """Runs steps that need space. ``socket_path`` None: there is nobody to ask."""

    def __init__(self, socket_path: Path | None = None) -> None:
        self._path = socket_path
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._under_way = 0
        self._refused_s = -QUIET_S
        self._short_s = -QUIET_S

    @property
    def was_short(self) -> bool:
        """Whether room could not be made a moment ago."""
        return time.monotonic() - self._short_s < QUIET_S

    def attempt(self, step: Callable[[], object], fd: int, wanted: int) -> None:
        """Run ``step``, which writes ``wanted`` bytes to the file system of ``fd``; 0: may take of
        the reserve, which is there for it.

        For want of space it is run again once there is some; so a second run must do no harm.
        Raises what it raises, DiskFull or DiskFullForNow.
        """
        with self._writing(wanted) as together:
            self._run(step, fd, wanted and together)

    @contextmanager
    def _writing(self, wanted: int) -> Iterator[int]:
        """Count bytes as being written; yields them and those of all others that write now.

        Each looks at the free space before it writes: without the others' share, many at once
        would take the reserve.
        """
        with self._count_lock:
            self._under_way += wanted
            together = self._under_way
        try:
            yield together
        finally:
            with self._count_lock:
                self._under_way -= wanted

    def _run(self, step: Callable[[], object], fd: int, wanted: int) -> None:
        if wanted and FreeSpace.of(fd).beyond_reserve < wanted:
            self._make(fd, wanted)
        try:
            step()
        except OSError as err:
            if not is_full(err):
                raise
            self._make(fd, wanted, after=err)
            try:
                step()
            except OSError as again:
                if is_full(again):
                    raise DiskFull(str(again)) from again
                raise

    def _make(self, fd: int, wanted: int, *, after: OSError | None = None) -> None:
        """Have the agent delete something. One at a time: the others find what it has made."""
        with self._lock:
            if after is None and FreeSpace.of(fd).beyond_reserve >= wanted:
                return
            asked_lately = time.monotonic() - self._refused_s < QUIET_S
            before, self._short_s = self._short_s, time.monotonic()
            if asked_lately:
                raise DiskFull("nothing in it may go")
            if not self._ask(wanted):
                self._refused_s = time.monotonic()
                raise DiskFull("nothing in it may go")
            self._short_s = before

    def _ask(self, wanted: int) -> bool:
        """Return whether the agent has made room."""
        if self._path is None:
            return False
        try:
            return _ask(self._path, wanted)
        except (OSError, ValueError) as err:
            raise DiskFullForNow(f"no agent answers that could make some ({err})") from err


def _ask(path: Path, wanted: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(ANSWER_S)
        asking.connect(os.fspath(path))
        asking.sendall(json.dumps({"op": "make_room", "wanted": wanted}).encode() + b"\n")
        with asking.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    if not answer["ok"]:
        raise OSError(answer["error"])
    return bool(answer["result"])


def room_server(run_dir: Path, make_room: Callable[[int], bool]) -> ControlServer:
    """Return the agent's side, started; the caller closes it."""
    server = ControlServer(
        run_dir / SOCKET, {"make_room": lambda request: make_room(int(request["wanted"]))}
    )
    server.start()
    return server
