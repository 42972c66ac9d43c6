"""The eBPF program that stands for the missing devices controller of version 2."""

import errno
import multiprocessing
import os
import struct

import pytest

from hotstart.kernel.cgroup import Group, hierarchies
from hotstart.kernel.device_filter import CharacterDevice, attach, program

_CODES = {"load": 0x61, "and": 0x57, "unless": 0x55, "set": 0xB7, "exit": 0x95}


def run(code, access, major, minor):
    """Interpret the five instructions that a filter has; return what it answers."""
    words = [struct.unpack_from("=BBhi", code, at) for at in range(0, len(code), 8)]
    context, registers, at = (access, major, minor), [0] * 16, 0
    while True:
        kind, pair, offset, value = words[at]
        target = pair & 15
        at += 1
        if kind == _CODES["load"]:
            registers[target] = context[offset // 4]
        elif kind == _CODES["and"]:
            registers[target] &= value
        elif kind == _CODES["set"]:
            registers[target] = value
        elif kind == _CODES["unless"]:
            at += offset if registers[target] != value else 0
        else:
            assert kind == _CODES["exit"]
            return registers[0]


def test_a_filter_lets_through_what_is_named_and_nothing_else():
    code = program([CharacterDevice(1, 3), CharacterDevice(136)])
    read_write = 6 << 16
    character, block = read_write | 2, read_write | 1
    assert run(code, character, 1, 3) == 1
    assert run(code, character, 136, 7) == 1
    assert run(code, character, 1, 5) == 0
    assert run(code, character, 10, 237) == 0
    assert run(code, block, 1, 3) == 0
    assert run(program([]), character, 1, 3) == 0


def _open_all(group, paths, answers):
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDWR))
            answers.put(0)
        except OSError as err:
            answers.put(err.errno)


@pytest.mark.kernel
@pytest.mark.skipif(hierarchies().v2 is None, reason="no cgroup file system of version 2")
def test_the_kernel_enforces_it():
    group = Group(f"/hotstart-test-{os.getpid()}-devices", hierarchies())
    group.create()
    try:
        directory = group.hosts.v2 / group.path.lstrip("/")
        attach(directory, [CharacterDevice(1, 3)])
        context = multiprocessing.get_context("spawn")
        answers = context.SimpleQueue()
        paths = ("/dev/null", "/dev/zero")
        process = context.Process(target=_open_all, args=(directory, paths, answers))
        process.start()
        assert [answers.get() for _ in paths] == [0, errno.EPERM]
        process.join()
    finally:
        assert group.remove()
