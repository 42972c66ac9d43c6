"""userfaultfd on memory of our own: absent pages wait, and what happens to mappings is told."""

import ctypes
import errno
import mmap
import threading

import pytest

from hotstart.kernel import userfaultfd
from hotstart.kernel.userfaultfd import (
    EVENT_PAGEFAULT,
    EVENT_REMOVE,
    MESSAGE_BYTES,
    PageBuffer,
    decode,
)
from tests.snapshotter.restored_tree import wait_for

pytestmark = pytest.mark.kernel

# Through ctypes.CDLL, which releases the GIL: a thread that waits for a page would keep it.
libc = ctypes.CDLL(None)
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

PAGE = mmap.PAGESIZE
PAGES = 8


@pytest.fixture
def watched():
    """Memory of 8 absent pages and the descriptor that their faults go to."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    descriptor = userfaultfd.create(userfaultfd.FEATURE_EVENT_REMOVE)
    userfaultfd.register_missing(descriptor, address, PAGES * PAGE)
    yield memory, address, descriptor
    descriptor.close()


def start_reading(address, into):
    reader = threading.Thread(target=libc.memcpy, args=(into, address, 1), daemon=True)
    reader.start()
    return reader


def messages(descriptor):
    buffer = bytearray(64 * MESSAGE_BYTES)
    length = descriptor.read_into(memoryview(buffer))
    return [decode(buffer, at) for at in range(0, length, MESSAGE_BYTES)]


def test_a_fault_waits_until_its_page_is_copied(watched):
    _, address, descriptor = watched
    read = ctypes.create_string_buffer(1)
    reader = start_reading(address + 3 * PAGE, read)
    [fault] = wait_for(lambda: messages(descriptor), "the fault", 10)
    assert (fault.event, fault.second) == (EVENT_PAGEFAULT, address + 3 * PAGE)
    assert read.raw == b"\0"
    source = PageBuffer(PAGE)
    source.view[:] = b"\x5a" * PAGE
    assert descriptor.copy(address + 3 * PAGE, source.address, PAGE) == (PAGE, 0)
    reader.join()
    assert read.raw == b"\x5a"


def test_a_lost_fault_comes_again_after_a_wake(watched):
    _, address, descriptor = watched
    reader = start_reading(address, ctypes.create_string_buffer(1))
    wait_for(lambda: messages(descriptor), "the fault", 10)  # read, and forgotten
    descriptor.wake_all()
    [again] = wait_for(lambda: messages(descriptor), "the fault once more", 10)
    assert again.second == address
    assert descriptor.zeropage(address, PAGE) == (PAGE, 0)
    reader.join()


def test_errors_are_answers(watched):
    _, address, descriptor = watched
    source = PageBuffer(PAGE)
    assert descriptor.copy(address, source.address, PAGE).errno == 0
    assert descriptor.copy(address, source.address, PAGE) == (0, errno.EEXIST)
    assert descriptor.zeropage(address, PAGE) == (0, errno.EEXIST)
    assert descriptor.copy(0x10000, source.address, PAGE) == (0, errno.ENOENT)
    assert descriptor.alive()


def test_thrown_away_memory_is_told_before_it_is_gone(watched):
    _, address, descriptor = watched
    source = PageBuffer(PAGE)
    descriptor.copy(address, source.address, PAGE)
    throw = (address, PAGE, mmap.MADV_DONTNEED)
    thrower = threading.Thread(target=libc.madvise, args=throw, daemon=True)
    thrower.start()
    [event] = wait_for(lambda: messages(descriptor), "the event", 10)
    assert (event.event, event.first, event.second) == (EVENT_REMOVE, address, address + PAGE)
    thrower.join()
