"""What CRIU sends about a restore's processes, zombies among them, in every shape it comes in."""

import os
import socket

import pytest

from snapshotter.criu_connection import (
    FINISHED,
    Arrived,
    ConnectionLost,
    RestoreFinished,
    look,
    take_process,
)


@pytest.fixture
def ends():
    ours, criu = socket.socketpair()
    ours.setblocking(False)
    with ours, criu:
        yield ours, criu


def word(number):
    return number.to_bytes(4, "little", signed=True)


def send_descriptor(criu):
    reading, writing = os.pipe()
    socket.send_fds(criu, [b"\0"], [reading])
    os.close(reading)
    os.close(writing)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def arrived(ours):
    message = look(ours)
    assert isinstance(message, Arrived)
    os.close(message.uffd)
    take_process(ours)
    return message.pid


@pytest.mark.parametrize("with_descriptor", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_zombies_are_passed_over(ends, with_descriptor, first):
    ours, criu = ends

    def zombie():
        criu.send(word(-7))
        if with_descriptor:
            send_descriptor(criu)

    if first:
        zombie()
    criu.send(word(1))
    send_descriptor(criu)
    if not first:
        zombie()
    criu.send(word(FINISHED))
    assert arrived(ours) == 1
    assert isinstance(look(ours), RestoreFinished)


def test_a_message_is_waited_for_until_it_is_whole_and_nothing_leaks(ends):
    ours, criu = ends
    before = open_descriptors()
    assert look(ours) is None
    criu.send(word(1)[:3])
    assert look(ours) is None
    criu.send(word(1)[3:])
    assert look(ours) is None
    send_descriptor(criu)
    criu.send(word(-2))
    assert arrived(ours) == 1
    assert look(ours) is None
    send_descriptor(criu)
    assert look(ours) is None
    criu.close()
    assert isinstance(look(ours), ConnectionLost)
    assert open_descriptors() == before - 1
