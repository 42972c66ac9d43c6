"""userfaultfd(2): install pages into another process and read what it does to its mappings.

A descriptor arrives ready made (CRIU opens and registers it); nothing here creates one outside of
tests. The calls return errno instead of raising, since EEXIST, EAGAIN and ENOENT are part of the
protocol: see ``FaultDescriptor``. Values are those of include/uapi/linux/userfaultfd.h.

One ``FaultDescriptor`` belongs to one thread: its argument blocks are reused by every call. ctypes
releases the GIL around each call. A ``PageBuffer`` is memory at a fixed address to copy from.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from hotstart.kernel.libc import check, libc

MESSAGE_BYTES = 32
"""Size of struct uffd_msg."""

EVENT_PAGEFAULT = 0x12
EVENT_FORK = 0x13
EVENT_REMAP = 0x14
EVENT_REMOVE = 0x15
EVENT_UNMAP = 0x16

FEATURE_EVENT_FORK = 1 << 1
FEATURE_EVENT_REMAP = 1 << 2
FEATURE_EVENT_REMOVE = 1 << 3
FEATURE_EVENT_UNMAP = 1 << 6

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_WAKE = 0x8010AA02
_UFFDIO_COPY = 0xC028AA03
_UFFDIO_ZEROPAGE = 0xC020AA04
_UFFD_API = 0xAA
_REGISTER_MODE_MISSING = 1
_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}

_LOWEST = 0x10000
_HIGHEST = (1 << 47) - mmap.PAGESIZE

_message = struct.Struct("<B7xQQQ")
_copy = struct.Struct("<QQQQq")


class Message(NamedTuple):
    """One event. PAGEFAULT: flags, address. FORK: descriptor. REMAP: from, to, length.

    REMOVE and UNMAP: start, end. Unused words are meaningless.
    """

    event: int
    first: int
    second: int
    third: int


class Outcome(NamedTuple):
    """What a copy or zeropage did: bytes installed, and errno (0 when all of them were)."""

    done: int
    errno: int


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Copy(ctypes.Structure):
    _fields_ = (
        ("target", ctypes.c_uint64),
        ("source", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("copied", ctypes.c_int64),
    )


class _Zeropage(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("zeroed", ctypes.c_int64),
    )


def decode(buffer: bytes | bytearray | memoryview | mmap.mmap, offset: int) -> Message:
    """Read the struct uffd_msg at ``offset``."""
    return Message(*_message.unpack_from(buffer, offset))


def forked_descriptor(message: Message) -> int:
    """Return the child's descriptor of a FORK event; it belongs to the process that read it."""
    return message.first & 0xFFFFFFFF


class PageBuffer:
    """Anonymous, page-aligned memory with a known address, as source of copies."""

    def __init__(self, size_bytes: int) -> None:
        self.view: memoryview = memoryview(
            mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        )
        self.address: int = ctypes.addressof(ctypes.c_char.from_buffer(self.view))


class PreparedCopies:
    """Copies in order, each (target, source, length), made ready before they are allowed."""

    def __init__(self, copies: Sequence[tuple[int, int, int]]) -> None:
        blocks = b"".join(_copy.pack(*copy, 0, 0) for copy in copies)
        self._blocks = ctypes.create_string_buffer(blocks, max(1, len(blocks)))
        first = ctypes.addressof(self._blocks)
        self.addresses = range(first, first + len(blocks), _copy.size)
        """Where each argument block lies."""


class FaultDescriptor:
    """Owns one userfaultfd. Errors a caller must expect from ``copy`` and ``zeropage``:

    EEXIST: the page is there already. EAGAIN: the process is changing its mappings; read events
    first. ENOENT: nothing is registered at that address (not yet, or no more). ESRCH: the process
    is gone. Closing the last descriptor makes every page that is still missing read as zeros.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self._range = _Range()
        self._copy = _Copy()
        self._zero = _Zeropage()

    def close(self) -> None:
        """Let go of the descriptor; harmless to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def copy(self, target: int, source: int, length: int) -> Outcome:
        """Install ``length`` bytes from our address ``source`` at ``target``; wakes its threads."""
        block = self._copy
        block.target, block.source, block.length = target, source, length
        block.mode = block.copied = 0
        if libc.ioctl(self.fd, _UFFDIO_COPY, ctypes.byref(block)) == 0:
            return Outcome(length, 0)
        return Outcome(max(0, block.copied), ctypes.get_errno())

    def copy_many(self, copies: PreparedCopies, first: int) -> tuple[int, int]:
        """Make the copies from number ``first`` on; return how many were made whole, and errno.

        It stops at the first that was not: that one may have been made in part.
        """
        ioctl, fd = libc.ioctl, self.fd
        for count, address in enumerate(copies.addresses[first:]):
            if ioctl(fd, _UFFDIO_COPY, address):
                return count, ctypes.get_errno()
        return len(copies.addresses) - first, 0

    def zeropage(self, start: int, length: int) -> Outcome:
        """Install zero pages and wake the threads that wait for them."""
        block = self._zero
        block.start, block.length, block.mode, block.zeroed = start, length, 0, 0
        if libc.ioctl(self.fd, _UFFDIO_ZEROPAGE, ctypes.byref(block)) == 0:
            return Outcome(length, 0)
        return Outcome(max(0, block.zeroed), ctypes.get_errno())

    def wake(self, start: int, length: int) -> None:
        """Make threads that wait in the range fault again; checks no mapping."""
        self._range.start, self._range.length = start, length
        check(libc.ioctl(self.fd, _UFFDIO_WAKE, ctypes.byref(self._range)), "ioctl(UFFDIO_WAKE)")

    def wake_all(self) -> None:
        """Wake every waiting thread of the process: faults that nobody answers come again."""
        self.wake(_LOWEST, _HIGHEST - _LOWEST)

    def alive(self) -> bool:
        """Tell whether the process still has this address space (ESRCH says it hasn't)."""
        # Nothing can be registered at the lowest page, so this never installs anything.
        return self.zeropage(_LOWEST, mmap.PAGESIZE).errno != errno.ESRCH

    def read_into(self, view: memoryview) -> int:
        """Read waiting messages straight into ``view``; return bytes read, 0 when none waits."""
        try:
            return os.readv(self.fd, [view])
        except BlockingIOError:
            return 0


def create(features: int) -> FaultDescriptor:
    """Open a userfaultfd of this process with ``features``. Needs CAP_SYS_PTRACE or root."""
    number = _SYS_USERFAULTFD[os.uname().machine]
    fd = check(libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK), "userfaultfd")
    block = (ctypes.c_uint64 * 3)(_UFFD_API, features, 0)
    try:
        check(libc.ioctl(fd, _UFFDIO_API, ctypes.byref(block)), "ioctl(UFFDIO_API)")
    except OSError:
        os.close(fd)
        raise
    return FaultDescriptor(fd)


def register_missing(descriptor: FaultDescriptor, start: int, length: int) -> None:
    """Route faults on absent pages of the range to ``descriptor``."""
    block = (ctypes.c_uint64 * 4)(start, length, _REGISTER_MODE_MISSING, 0)
    check(
        libc.ioctl(descriptor.fd, _UFFDIO_REGISTER, ctypes.byref(block)), "ioctl(UFFDIO_REGISTER)"
    )
