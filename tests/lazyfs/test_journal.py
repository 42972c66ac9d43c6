"""The journal: what was read and not answered is there for whoever comes next."""

import os
from pathlib import Path

import pytest

from hotstart.core.errors import Unsupported
from hotstart.kernel import fanotify
from lazyfs.journal import Journal, create_journal

GOLDEN = Path(__file__).parents[1] / "golden" / "fill-journal.v1"
EVENT = bytes.fromhex(
    "30000000030018000000100000000000"  # length 48, version 3, metadata 24, FAN_PRE_ACCESS
    "2a000000d2040000"  # descriptor 42, process 1234
    "0600180000000000"  # range record of 24 bytes
    "00200000000000000010000000000000"  # 4096 bytes at 8192
)


@pytest.fixture
def fd():
    fd = create_journal(3)
    yield fd
    os.close(fd)


def test_a_new_journal_has_every_slot_free(fd):
    journal = Journal(fd)
    assert sorted(journal.free) == [1, 2, 3]
    assert list(journal.pending()) == []
    journal.close()


def test_a_successor_finds_what_was_not_answered(fd):
    journal = Journal(fd)
    journal.slot(2)[:48] = EVENT
    journal.slot(3)[:48] = EVENT
    journal.clear(3)
    journal.close()
    successor = Journal(fd)
    assert list(successor.pending()) == [2]
    assert sorted(successor.free) == [1, 3]
    event = fanotify.decode(successor.slot(2))
    assert (event.event_fd, event.pid, event.offset, event.length) == (42, 1234, 8192, 4096)
    successor.close()


def test_bytes_are_those_of_version_1(fd):
    journal = Journal(fd)
    journal.slot(2)[:48] = EVENT
    journal.close()
    assert os.pread(fd, 1 << 20, 0) == GOLDEN.read_bytes()


@pytest.mark.parametrize("position", [0, 6])
def test_another_version_or_magic_is_refused(fd, position):
    os.pwrite(fd, b"\x09", position)
    with pytest.raises(Unsupported):
        Journal(fd)
