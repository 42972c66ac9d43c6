"""Waking a thread that may have ended."""

import os
import select

import pytest

from snapshotter.wake_up import WakeUp


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_any_number_of_rings_are_one_until_cleared():
    wake = WakeUp()
    assert not readable(wake.fd)
    wake.ring()
    wake.ring()
    assert readable(wake.fd)
    wake.clear()
    assert not readable(wake.fd)
    wake.close()


def test_a_ring_after_the_end_reaches_nobody_elses_descriptor():
    reading, writing = os.pipe()
    wake = WakeUp()
    number = wake.fd
    wake.close()
    try:
        os.dup2(writing, number)  # what was opened since has the same number
        wake.ring()
        wake.close()
        os.write(number, b"x")
        assert os.read(reading, 100) == b"x"
    finally:
        for fd in {reading, writing, number}:
            os.close(fd)


def test_a_closed_one_has_no_descriptor():
    wake = WakeUp()
    wake.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(wake.fd)
