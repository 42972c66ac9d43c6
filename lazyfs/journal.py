"""The journal of one device: the buffer its events are read into, in memory that outlives a worker.

    slot 0      header: magic "HSJRNL", u16 version 1, u32 number of slots, zeros
    slot 1..n   64 bytes each: the event as the kernel wrote it, or zeros

An event is read straight into a free slot, so there is no moment in which it is neither in the
kernel's queue nor here. The order at the end is: respond, clear the slot, close the event
descriptor; a number is free for the next event only when no slot names it. A successor answers
every slot that is not clear before its first read, by event number.

One dispatcher takes slots; any thread gives them back.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator

from hotstart.core.errors import Unsupported
from hotstart.kernel.fanotify import EVENT_SLOT

VERSION = 1
SLOTS = 1023
_HEADER = struct.Struct("<6sHI")
_MAGIC = b"HSJRNL"
_CLEAR = bytes(4)


class JournalVersionUnknown(Unsupported):
    """The journal was made by another version of this program."""


def create_journal(slots: int = SLOTS) -> int:
    """Return the descriptor of a new, clear journal; the caller owns it."""
    fd = os.memfd_create("hotstart-journal", os.MFD_CLOEXEC)
    os.ftruncate(fd, (slots + 1) * EVENT_SLOT)
    os.pwrite(fd, _HEADER.pack(_MAGIC, VERSION, slots), 0)
    return fd


class Journal:
    """A mapped journal. Slots are numbered from 1."""

    def __init__(self, fd: int) -> None:
        magic, version, slots = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        if magic != _MAGIC or version != VERSION:
            raise JournalVersionUnknown(f"journal of version {version}, this program reads 1")
        self._map = mmap.mmap(fd, (slots + 1) * EVENT_SLOT)
        self._view = memoryview(self._map)
        self._slots = [
            self._view[slot * EVENT_SLOT : (slot + 1) * EVENT_SLOT] for slot in range(slots + 1)
        ]
        self.free = deque(slot for slot in range(1, slots + 1) if self._slots[slot][:4] == _CLEAR)

    def slot(self, number: int) -> memoryview:
        """Return the bytes of a slot, to read an event into."""
        return self._slots[number]

    def clear(self, number: int) -> None:
        """Forget the event of a slot that has been answered, and give the slot back."""
        self._slots[number][:4] = _CLEAR
        self.free.append(number)

    def pending(self) -> Iterator[int]:
        """Yield the slots whose event nobody is known to have answered."""
        for number in range(1, len(self._slots)):
            if self._slots[number][:4] != _CLEAR:
                yield number

    def close(self) -> None:
        """Unmap; the memory lives as long as anybody holds its descriptor."""
        for view in self._slots:
            view.release()
        self._view.release()
        self._map.close()
