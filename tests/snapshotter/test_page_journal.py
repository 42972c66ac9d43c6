"""A successor reads out of the journal exactly what its predecessor knew."""

import os
import struct
from pathlib import Path

import pytest

from hotstart.kernel.userfaultfd import (
    EVENT_PAGEFAULT,
    EVENT_REMOVE,
    MESSAGE_BYTES,
    Message,
)
from snapshotter.page_journal import BATCH, FORK_HELD, INSTALLED, JournalInvalid, PageJournal
from snapshotter.page_ranges import PageRanges, Piece

GOLDEN = Path(__file__).parents[1] / "golden" / "page-journal.v1"
PAGE = 4096
PIECES = [Piece(PAGE, 3 * PAGE, 0), Piece(8 * PAGE, 9 * PAGE, 2 * PAGE)]


@pytest.fixture
def journal():
    journal = PageJournal.create(PageRanges(PIECES))
    yield journal
    journal.close()


def message(event, first=0, second=0, third=0):
    return struct.pack("<B7xQQQ", event, first, second, third)


def read_in(journal, *messages):
    """Do what read(2) does: put messages straight into the journal."""
    content = b"".join(messages)
    journal.room()[: len(content)] = content
    return len(content)


def successor_of(journal):
    return PageJournal.adopt(os.dup(journal.fd))


def test_the_base_is_what_was_missing(journal):
    assert list(journal.base()) == PIECES


def test_events_survive_and_come_back_in_order(journal):
    length = read_in(journal, message(EVENT_PAGEFAULT, 0, PAGE), message(EVENT_REMOVE, 1, 2))
    assert [m.event for _, m in journal.batch(length)] == [EVENT_PAGEFAULT, EVENT_REMOVE]
    journal.keep(length)
    journal.installed(PAGE, 2 * PAGE)
    successor = successor_of(journal)
    assert [m for _, m in successor.replay()] == [
        Message(EVENT_PAGEFAULT, 0, PAGE, 0),
        Message(EVENT_REMOVE, 1, 2, 0),
        Message(INSTALLED, PAGE, 2 * PAGE, 0),
    ]
    successor.installed(2 * PAGE, 3 * PAGE)
    second = successor_of(journal)
    assert len(list(second.replay())) == 4
    successor.close()
    second.close()


def test_an_event_that_nobody_has_kept_yet_is_there_for_the_successor(journal):
    """The worker may die right after read(2)."""
    read_in(journal, message(EVENT_REMOVE, PAGE, 2 * PAGE))
    successor = successor_of(journal)
    assert [m.event for _, m in successor.replay()] == [EVENT_REMOVE]
    successor.close()


def test_room_of_faults_alone_is_used_again(journal):
    for _ in range(3 * (1 << 20) // BATCH):
        length = read_in(journal, *[message(EVENT_PAGEFAULT, 0, PAGE)] * (BATCH // MESSAGE_BYTES))
        journal.wipe(length)
    assert not journal.full
    successor = successor_of(journal)
    assert list(successor.replay()) == []
    successor.close()


def test_a_record_that_was_half_written_does_not_count(journal):
    """Its kind byte is written last."""
    length = read_in(journal, message(EVENT_PAGEFAULT, 7, PAGE))
    journal.wipe(length)
    journal.room()[8:16] = struct.pack("<Q", 5)
    successor = successor_of(journal)
    assert list(successor.replay()) == []
    successor.close()


def test_a_fork_that_the_keeper_holds_is_marked(journal):
    length = read_in(journal, message(0x13, 9))
    [(position, _)] = journal.batch(length)
    journal.keep(length)
    journal.fork_held(position)
    successor = successor_of(journal)
    assert [m.event for _, m in successor.replay()] == [FORK_HELD]
    successor.close()


def test_a_superseded_journal_is_refused(journal):
    journal.supersede()
    copy = os.dup(journal.fd)
    with pytest.raises(JournalInvalid, match="newer one"):
        PageJournal.adopt(copy)
    os.close(copy)


def test_a_journal_of_another_version_is_refused(journal):
    os.pwrite(journal.fd, b"HSPGJRN9", 0)
    copy = os.dup(journal.fd)
    with pytest.raises(JournalInvalid, match="HSPGJRN9"):
        PageJournal.adopt(copy)
    os.close(copy)


def test_a_full_journal_says_so_while_a_batch_still_fits():
    journal = PageJournal.create(PageRanges(PIECES), log_bytes=4 * BATCH)
    count = 0
    while not journal.full:
        journal.installed(count * PAGE, (count + 1) * PAGE)
        count += 1
    assert len(journal.room()) == BATCH
    assert count > BATCH // MESSAGE_BYTES
    journal.close()


def test_version_1_has_these_bytes(journal):
    """docs/formats/page-journal.md; a change of them is a new version."""
    journal.installed(PAGE, 2 * PAGE)
    head = bytearray(40)
    head[:8] = b"HSPGJRN1"
    head[16:40] = struct.pack("<QQQ", 2, 4160, 0)
    pieces = struct.pack("<6Q", PAGE, 3 * PAGE, 0, 8 * PAGE, 9 * PAGE, 2 * PAGE)
    record = struct.pack("<4Q", 1, PAGE, 2 * PAGE, 0)
    content = os.pread(journal.fd, 4192, 0)
    assert content == bytes(head).ljust(PAGE, b"\0") + pieces.ljust(64, b"\0") + record
    assert content == GOLDEN.read_bytes()


def test_the_golden_journal_means_what_it_meant():
    fd = os.memfd_create("golden")
    os.write(fd, GOLDEN.read_bytes() + bytes(2 * BATCH))
    journal = PageJournal.adopt(fd)
    assert list(journal.base()) == PIECES
    assert [m for _, m in journal.replay()] == [Message(INSTALLED, PAGE, 2 * PAGE, 0)]
    assert journal.generation == 0
    journal.close()
