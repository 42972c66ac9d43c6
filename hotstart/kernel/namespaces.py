"""Network and mount namespaces, entered by one thread at a time.

setns(2) and unshare(2) move the calling thread only, so whatever must happen elsewhere happens in
a thread of its own that ends afterwards and never returns to a pool. A program started by such a
thread inherits its namespaces. Sockets keep the namespace in which they were made: a socket may
be handed out of the thread and used anywhere. Needs CAP_SYS_ADMIN.

A network namespace is kept alive by a bind mount of /proc/thread-self/ns/net on a plain file, as
``ip netns`` does, but at any path. ``ip`` takes such a path where it takes a name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from hotstart.kernel.libc import check, libc
from hotstart.kernel.mounts import bind, make_private, unmount_if_mounted

# <linux/sched.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

Result = TypeVar("Result")


def enter(path: str | Path, kind: int) -> None:
    """Move the calling thread into the namespace at ``path``. The thread must not live on."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(libc.setns(fd, kind), "setns", path)
    finally:
        os.close(fd)


def unshare(kind: int) -> None:
    """Give the calling thread a new namespace. The thread must not live on."""
    check(libc.unshare(kind), "unshare")


class _Thread(threading.Thread, Generic[Result]):
    """Prepares its namespaces, calls ``function`` and keeps what came of it."""

    def __init__(self, prepare: Callable[[], None], function: Callable[[], Result]) -> None:
        super().__init__(name="namespace", daemon=True)
        self._prepare = prepare
        self._function = function
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._prepare()
            self._results.append(self._function())
        except BaseException as err:  # raised again in the thread that waits
            self._error = err

    def result(self) -> Result:
        """Wait for the end; return the result or raise the error of the function."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._results[0]


def _call(prepare: Callable[[], None], function: Callable[[], Result]) -> Result:
    thread = _Thread(prepare, function)
    thread.start()
    return thread.result()


def call_in_network(path: str | Path, function: Callable[[], Result]) -> Result:
    """Call ``function`` in a new thread inside the network namespace at ``path``; blocks.

    Returns or raises what the function does; OSError if the namespace cannot be entered.
    """
    return _call(lambda: enter(path, CLONE_NEWNET), function)


def call_in_private_mounts(function: Callable[[], Result]) -> Result:
    """Call ``function`` in a new thread with a copy of the mounts that nobody else sees.

    Mounts made elsewhere afterwards are not seen inside either. Programs that the function starts
    keep the copy alive for as long as they run.
    """

    def prepare() -> None:
        unshare(CLONE_NEWNS)  # implies CLONE_FS: the thread gets a working directory of its own
        make_private("/")

    return _call(prepare, function)


def create_network(path: Path) -> None:
    """Make a network namespace and keep it at ``path``, a file that must not exist yet."""

    def prepare() -> None:
        unshare(CLONE_NEWNET)

    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
    try:
        _call(prepare, lambda: bind("/proc/thread-self/ns/net", path))
    except BaseException:
        path.unlink()
        raise


def remove_network(path: Path) -> None:
    """Let go of the namespace kept at ``path``; nothing happens if there is none.

    The kernel destroys it, its links included, once no process and no socket uses it.
    """
    unmount_if_mounted(path, detach=True)
    path.unlink(missing_ok=True)


def same_namespace(path: str | Path, pid: int, kind: str = "net") -> bool:
    """Return whether process ``pid`` is in the namespace kept at ``path``."""
    return os.path.samefile(path, f"/proc/{pid}/ns/{kind}")
