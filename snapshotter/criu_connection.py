"""CRIU's side of lazy pages: one connection a restore, on which userfaultfds arrive.

Protocol (CRIU criu/uffd.c, send_uffd and lazy_pages_finish_restore): for each process a 32-bit pid
in the process namespace of the container, then one byte that carries the descriptor; for a zombie
its pid as a negative number, with or without such a byte, whose descriptor means nothing; and, when
every process is complete, the word "RSTF". A connection that ends without that word is a restore
that has failed.

A message is first looked at (MSG_PEEK duplicates the descriptor), and taken out only once the
keeper holds what was in it. So a page worker that dies in between leaves it to its successor.
"""

from __future__ import annotations

import array
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SOCKET_NAME = "lazy-pages.socket"
FINISHED = 0x52535446
_WORD = 4
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


@dataclass(frozen=True, slots=True)
class Arrived:
    """A process's descriptor, still in the connection; the copy here belongs to the receiver."""

    pid: int
    uffd: int


class RestoreFinished:
    """Every process of the tree is complete; nothing more is registered from here on."""


class ConnectionLost:
    """CRIU has gone without finishing."""


Message = Arrived | RestoreFinished | ConnectionLost


def listen(work_dir: Path) -> socket.socket:
    """Bind CRIU's socket in its work directory; the listener does not block."""
    with suppress(FileNotFoundError):
        (work_dir / SOCKET_NAME).unlink()
    directory = os.open(work_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By descriptor: the path itself may be longer than a socket address can hold.
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        listener.listen(8)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def look(connection: socket.socket) -> Message | None:
    """Return the next message without taking it out; None while it is incomplete.

    Zombies are taken out and skipped.
    """
    while True:
        try:
            content, ancillary, _, _ = connection.recvmsg(
                _WORD + 1, socket.CMSG_SPACE(4), _FLAGS | socket.MSG_PEEK
            )
        except BlockingIOError:
            return None
        except OSError:
            return ConnectionLost()
        descriptors = _descriptors(ancillary)
        if not content:
            return ConnectionLost()
        word = int.from_bytes(content[:_WORD], "little", signed=True)
        if len(content) >= _WORD and word > 0:
            return RestoreFinished() if word == FINISHED else _arrived(word, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if len(content) >= _WORD:
            connection.recv(_WORD)
        elif descriptors:
            connection.recv(len(content))
        else:
            return None


def take_process(connection: socket.socket) -> None:
    """Take out the message of a process that ``look`` has returned."""
    connection.recv(_WORD)
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4), _FLAGS)
    for descriptor in _descriptors(ancillary):
        os.close(descriptor)


def _arrived(pid: int, descriptors: list[int]) -> Arrived | None:
    """Return the process, once its descriptor is there too."""
    return Arrived(pid, descriptors[0]) if descriptors else None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return list(found)
