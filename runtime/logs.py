"""What a container wrote: conmon's log, cut into pieces, read back as lines.

conmon writes ``log`` in the k8s-file format, one line per line or part of a line:

    2026-11-24T06:11:25.356540962+00:00 stdout F the text        (P instead of F: the line goes on)

Before ``log`` would grow past its limit conmon renames an empty file over it. So that the full
piece isn't lost, ``log.held`` is a hard link to the piece being written; when both names no
longer mean the same file, a piece is full, and ``LogKeeper`` renames ``log.held`` to ``log.1``
(``log.1`` to ``log.2``, ...) and links the new one. While no agent runs, disk use stays bounded
and the first and the newest piece are kept; a container that fills several pieces between two
looks loses those in between.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hotstart.core.log import get_logger
from runtime.container_directory import ContainerDirectory

log = get_logger(__name__)

KEPT_PIECES = 4
"""Full pieces kept beside the newest one."""

_LOOK_EVERY_S = 0.25
_FOLLOW_EVERY_S = 0.05
_STAMP_LENGTH = 35


@dataclass(frozen=True, slots=True)
class LogLine:
    """One entry: ``data`` ends in a newline unless the program's line goes on."""

    time_ns: int
    stream: str
    data: bytes


def parse_line(line: bytes) -> LogLine | None:
    """Read one line of the file; None for what conmon did not write whole."""
    stamp, _, rest = line.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tag, space, text = rest.partition(b" ")
    if not space or stream not in (b"stdout", b"stderr") or tag not in (b"F", b"P"):
        return None
    try:
        time_ns = _parse_stamp(stamp.decode("ascii"))
    except ValueError:
        return None
    return LogLine(time_ns, stream.decode(), text + b"\n" if tag == b"F" else text)


def _parse_stamp(stamp: str) -> int:
    """Read RFC 3339 with nine digits, of which datetime keeps six."""
    if len(stamp) != _STAMP_LENGTH:
        raise ValueError(stamp)
    seconds = int(datetime.fromisoformat(f"{stamp[:19]}{stamp[29:]}").timestamp())
    return seconds * 1_000_000_000 + int(stamp[20:29])


def pieces(directory: ContainerDirectory) -> list[Path]:
    """Return the files of the log, oldest first."""
    numbered = [_piece(directory, n) for n in range(KEPT_PIECES, 0, -1)]
    found = [path for path in (*numbered, _held(directory), directory.log) if path.exists()]
    unique: dict[int, Path] = {}
    for path in found:
        with contextlib.suppress(FileNotFoundError):
            unique.setdefault(path.stat().st_ino, path)
    return list(unique.values())


def read_log(
    directory: ContainerDirectory,
    *,
    tail: int = 0,
    follow: Callable[[], bool] | None = None,
) -> Iterator[LogLine]:
    """Yield what the container wrote, oldest first; ``tail``: only that many lines (0: all).

    With ``follow`` it goes on until the function returns False and everything is read: give one
    that tells whether the container still runs and somebody still listens.
    """
    reader = _Reader(directory)
    try:
        existing = reader.drain()
        yield from _tail(existing, tail) if tail else existing
        while follow is not None:
            going = follow()  # asked before reading, so that the last lines are not missed
            lines = list(reader.drain())
            yield from lines
            if not going:
                return
            if not lines:
                time.sleep(_FOLLOW_EVERY_S)
    finally:
        reader.close()


def last_lines(directory: ContainerDirectory, count: int = 10) -> list[str]:
    """Return the container's last lines as text, for error messages."""
    whole: deque[str] = deque(maxlen=count)
    parts: dict[str, bytes] = {}
    for line in read_log(directory, tail=count):
        parts[line.stream] = parts.get(line.stream, b"") + line.data
        if line.data.endswith(b"\n"):
            whole.append(parts.pop(line.stream)[:-1].decode(errors="replace"))
    whole.extend(rest.decode(errors="replace") for rest in parts.values())
    return list(whole)


def _tail(entries: Iterable[LogLine], count: int) -> deque[LogLine]:
    """Return the entries of the last ``count`` lines; conmon cuts long ones into several."""
    kept: deque[LogLine] = deque()
    ends = 0
    for entry in entries:
        kept.append(entry)
        ends += entry.data.endswith(b"\n")
        while ends > count:
            ends -= kept.popleft().data.endswith(b"\n")
    return kept


class _Reader:
    """Reads pieces in order; remembers by inode what it has read, through any renaming."""

    def __init__(self, directory: ContainerDirectory) -> None:
        self._directory = directory
        self._fd = -1
        self._inode = 0
        self._rest = b""

    def drain(self) -> Iterator[LogLine]:
        """Yield everything written by now."""
        while True:
            yield from self._read_open()
            if not self._open_next():
                return
            self._rest = b""

    def _read_open(self) -> Iterator[LogLine]:
        while self._fd >= 0 and (content := os.read(self._fd, 1 << 20)):
            *whole, self._rest = (self._rest + content).split(b"\n")
            for line in whole:
                parsed = parse_line(line)
                if parsed is not None:
                    yield parsed

    def _open_next(self) -> bool:
        """Open the piece after the one that was read; False if there is none yet."""
        files = pieces(self._directory)
        inodes = [path.stat().st_ino for path in files if path.exists()]
        if self._inode in inodes:
            files = files[inodes.index(self._inode) + 1 :]
        for path in files:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # renamed just now: it is found again next time
                return False
            self.close()
            self._fd, self._inode = fd, os.fstat(fd).st_ino
            return True
        return False

    def close(self) -> None:
        """Close the piece being read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _piece(directory: ContainerDirectory, number: int) -> Path:
    return directory.path / f"log.{number}"


def _held(directory: ContainerDirectory) -> Path:
    return directory.path / "log.held"


def rotate(directory: ContainerDirectory) -> bool:
    """Put a full piece aside if there is one; returns whether there was. One caller at a time."""
    held = _held(directory)
    try:
        newest = directory.log.stat().st_ino
        if held.exists() and held.stat().st_ino == newest:
            return False
        full = held.exists()
        if full:
            for number in range(KEPT_PIECES - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _piece(directory, number).rename(_piece(directory, number + 1))
            held.rename(_piece(directory, 1))
        os.link(directory.log, held)
    except FileNotFoundError:  # not started yet, replaced meanwhile, or removed: look again later
        return False
    return full


class LogKeeper:
    """Watches the logs of an agent's running containers. ``close`` ends its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, ContainerDirectory] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)
        self._thread.start()

    def watch(self, directory: ContainerDirectory) -> None:
        """Keep this container's full pieces from now on."""
        with self._lock:
            rotate(directory)
            self._watched[directory.name] = directory

    def forget(self, directory: ContainerDirectory) -> None:
        """Stop watching a container that has ended. Idempotent."""
        with self._lock:
            self._watched.pop(directory.name, None)

    def close(self) -> None:
        """End the thread; logs stay as they are."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            with self._lock:
                for directory in self._watched.values():
                    try:
                        rotate(directory)
                    except OSError as err:
                        log.warning("log_not_rotated", container=directory.name, error=err)
