"""fanotify groups as the kernel has them: readers wait, answers by number, what is refused."""

import contextlib
import ctypes
import errno
import os
import select
from pathlib import Path

import pytest

from hotstart.core.errors import Unsupported
from hotstart.core.run import DEVNULL, PIPE, spawn
from hotstart.kernel import fanotify
from hotstart.kernel.mounts import bind, tmpfs, unmount

pytestmark = [pytest.mark.kernel]
SIZE = 64 << 10


@pytest.fixture
def group():
    group = fanotify.create_group()
    yield group
    with contextlib.suppress(OSError):
        os.close(group)


@pytest.fixture
def sparse(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@contextlib.contextmanager
def reader(path, offset=0, length=4096):
    """A process that reads; yields it. Its output is what it read."""
    argv = ["dd", f"if={path}", "bs=4096", f"skip={offset // 4096}", f"count={length // 4096}"]
    process = spawn(argv, stdout=PIPE, stderr=DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_event(group):
    """Wait for an event and return (slot, event)."""
    slot = bytearray(fanotify.EVENT_SLOT)
    ready, _, _ = select.select([group], [], [], 10)
    assert ready, "no event came"
    assert fanotify.read_event(group, memoryview(slot))
    return slot, fanotify.decode(slot)


def test_no_event_is_no_error(group):
    assert fanotify.read_event(group, memoryview(bytearray(fanotify.EVENT_SLOT))) is False


def test_a_reader_waits_for_its_answer_and_reads_what_was_written_before_it(group, sparse):
    own = os.open(sparse, os.O_RDWR)
    fanotify.mark(group, sparse)
    with reader(sparse, offset=8192) as process:
        _, event = next_event(group)
        assert event.offset <= 8192 < event.offset + event.length
        assert event.pid == process.pid
        assert process.poll() is None
        os.pwrite(own, b"x" * 4096, 8192)  # raises no event: opened before the mark
        assert fanotify.allow(group, event.event_fd)
        os.close(event.event_fd)
        while process.poll() is None:
            answer_if_any(group)
        assert process.stdout.read() == b"x" * 4096
    os.close(own)


def answer_if_any(group):
    ready, _, _ = select.select([group], [], [], 0.05)
    if ready:
        _, event = next_event(group)
        fanotify.allow(group, event.event_fd)
        os.close(event.event_fd)


def test_a_denied_reader_fails_with_the_error(group, sparse):
    fanotify.mark(group, sparse)
    with reader(sparse) as process:
        _, event = next_event(group)
        assert fanotify.deny(group, event.event_fd, errno.EIO)
        os.close(event.event_fd)
        assert process.wait(timeout=10) != 0
        assert process.stdout.read() == b""


def test_an_answer_to_nobody_is_told(group, sparse):
    fanotify.mark(group, sparse)
    assert fanotify.allow(group, 12345) is False
    assert fanotify.deny(group, 12345) is False


def test_another_holder_of_the_group_answers_by_number(group, sparse):
    fanotify.mark(group, sparse)
    copy = os.dup(group)
    with reader(sparse) as process:
        _, event = next_event(group)
        os.close(event.event_fd)
        assert fanotify.allow(copy, event.event_fd)
        assert process.wait(timeout=10) == 0
    os.close(copy)


def test_an_unmarked_file_is_read_without_asking(group, sparse):
    fanotify.mark(group, sparse)
    fanotify.unmark(group, sparse)
    with reader(sparse) as process:
        assert process.wait(timeout=10) == 0


def test_a_mount_mark_asks_only_for_what_is_opened_through_the_mount(group, sparse, tmp_path):
    bound = tmp_path / "bound"
    bound.touch()
    bind(sparse, bound)
    try:
        fanotify.mark_mount(group, bound)
        with reader(sparse) as process:
            assert process.wait(timeout=10) == 0
        with reader(bound) as process:
            _, event = next_event(group)
            fanotify.allow(group, event.event_fd)
            os.close(event.event_fd)
            assert process.wait(timeout=10) == 0
    finally:
        unmount(bound)


def test_a_file_system_without_pre_content_events_is_named(group, tmp_path):
    place = tmp_path / "tmpfs"
    place.mkdir()
    tmpfs(place, mode=0o700, size_bytes=1 << 20)
    try:
        (place / "file").touch()
        with pytest.raises(Unsupported, match="ext4, xfs or btrfs"):
            fanotify.mark(group, place / "file")
    finally:
        unmount(place)


class ShortOfGroups:
    """The kernel as it is for a user who has all the groups that the limit allows."""

    def __init__(self, limit_file, groups):
        self._limit_file, self._groups = limit_file, groups

    def fanotify_init(self, *_):
        if self._groups < int(self._limit_file.read_text()):
            return 77
        ctypes.set_errno(errno.EMFILE)
        return -1


@pytest.fixture
def limit_file(tmp_path, monkeypatch):
    path = tmp_path / "max_user_groups"
    path.write_text("128\n")
    monkeypatch.setattr(fanotify, "_MAX_USER_GROUPS", path)
    return path


def test_the_limit_of_groups_is_raised_when_it_is_reached(limit_file, monkeypatch):
    monkeypatch.setattr(fanotify, "libc", ShortOfGroups(limit_file, 300))
    assert fanotify.create_group() == 77
    assert limit_file.read_text() == "512"


def test_a_limit_of_groups_that_may_not_be_raised_is_refused_with_what_to_do(
    limit_file, monkeypatch
):
    monkeypatch.setattr(fanotify, "libc", ShortOfGroups(limit_file, 1 << 20))
    with pytest.raises(fanotify.GroupsExhausted, match="as many as hotstart asks for"):
        fanotify.create_group()
    limit_file.write_text("128")
    monkeypatch.setattr(Path, "write_text", read_only)
    with pytest.raises(fanotify.GroupsExhausted, match="Read-only file system") as caught:
        fanotify.create_group()
    assert "sysctl -w fs.fanotify.max_user_groups=256" in caught.value.hint


def read_only(*_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_short_descriptors_are_not_taken_for_short_groups(limit_file, monkeypatch):
    monkeypatch.setattr(fanotify, "libc", ShortOfGroups(limit_file, 300))
    monkeypatch.setattr(fanotify, "_may_open", lambda: False)
    with pytest.raises(OSError, match="fanotify_init") as caught:
        fanotify.create_group()
    assert caught.value.errno == errno.EMFILE
    assert limit_file.read_text() == "128\n"


@pytest.mark.parametrize("content", [b"", b"\1" * 64, bytes(64)])
def test_a_malformed_event_is_refused(content):
    with pytest.raises(fanotify.EventMalformed):
        fanotify.decode(content.ljust(fanotify.EVENT_SLOT, b"\0"))
