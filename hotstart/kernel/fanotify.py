"""fanotify groups that are asked before file data is read (FAN_PRE_ACCESS, kernel >= 6.14).

A reader of a marked file waits until any holder of the group descriptor answers its event, which
is named by the event descriptor's *number*. When the last holder closes the group, the kernel
allows everything and readers see the zeros of a sparse file: somebody must always hold a copy
(the keeper does). A file raises events only if a mark existed when it was opened, so: open the
own writing descriptor, then mark, then mount. Facts: fanotify(7) and
fs/notify/fanotify/fanotify_user.c.

One read takes one event: a buffer of 64 bytes holds one (48 bytes) and never two. Needs
CAP_SYS_ADMIN. Marks need ext4, xfs or btrfs (FS_ALLOW_HSM); others raise EOPNOTSUPP. Answering is
safe from any thread and any process that holds the group.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hotstart.core.errors import HotstartError, Unsupported, UserError
from hotstart.core.log import get_logger
from hotstart.kernel.libc import libc, os_error

log = get_logger(__name__)

Buffer: TypeAlias = bytes | bytearray | memoryview

# <linux/fanotify.h>
FAN_CLOEXEC = 0x1
FAN_NONBLOCK = 0x2
FAN_CLASS_PRE_CONTENT = 0x8
FAN_UNLIMITED_QUEUE = 0x10
FAN_MARK_ADD = 0x1
FAN_MARK_REMOVE = 0x2
FAN_MARK_MOUNT = 0x10
FAN_PRE_ACCESS = 0x00100000
FAN_ALLOW = 0x1
FAN_DENY = 0x2
FAN_EVENT_INFO_TYPE_RANGE = 6
FANOTIFY_METADATA_VERSION = 3
AT_FDCWD = -100

EVENT_SLOT = 64
"""Bytes to offer to one read: room for exactly one event."""

_METADATA = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_RANGE = struct.Struct("=BBHIQQ")  # info_type, pad, len, pad, offset, count
_RESPONSE = struct.Struct("=iI")  # fd, response

MOST_GROUPS = 1 << 16
"""The limit of groups is raised no further; each costs some kernel memory."""
_MAX_USER_GROUPS = Path("/proc/sys/fs/fanotify/max_user_groups")

# The queue must be unlimited: on overflow the kernel allows the access, and readers see zeros.
_GROUP_FLAGS = FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC | FAN_UNLIMITED_QUEUE | FAN_NONBLOCK


class GroupsExhausted(UserError):
    """This user has as many fanotify groups as it may have; every served device needs one."""

    def __init__(self, limit: int, why: str) -> None:
        super().__init__(
            f"all {limit} fanotify groups of this user are in use (fs.fanotify.max_user_groups), "
            f"and {why}",
            f"unmount images, or: sysctl -w fs.fanotify.max_user_groups={2 * limit}",
        )
        self.limit = limit


class EventMalformed(HotstartError):
    """The kernel sent an event without a byte range, or of an unknown version."""


@dataclass(frozen=True, slots=True)
class Event:
    """A read that waits: ``length`` bytes from ``offset`` on of the file behind ``event_fd``."""

    event_fd: int
    pid: int
    offset: int
    length: int


def create_group() -> int:
    """Return a new non-blocking pre-content group; the caller owns the descriptor.

    Events carry a read-only descriptor that raises no events itself. A user may have
    fs.fanotify.max_user_groups groups (128 unless it was raised): when they are used up the limit
    is doubled, up to MOST_GROUPS, and that stays so until the next boot.

    Raises Unsupported where the kernel has no pre-content events, GroupsExhausted, OSError.
    """
    while True:
        result = int(libc.fanotify_init(_GROUP_FLAGS, os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC))
        if result >= 0:
            return result
        err = os_error("fanotify_init")
        if err.errno in (errno.EINVAL, errno.ENOSYS):
            why = "this kernel has no fanotify pre-content events (needs 6.14)"
            raise Unsupported(why) from err
        if err.errno != errno.EMFILE or not _may_open():
            raise err
        _raise_group_limit()


def _may_open() -> bool:
    """Tell a user's last group from a process's last descriptor: both are EMFILE."""
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError as err:
        return err.errno != errno.EMFILE
    return True


def _raise_group_limit() -> None:
    limit = int(_MAX_USER_GROUPS.read_text())
    try:
        if limit >= MOST_GROUPS:
            raise GroupsExhausted(limit, f"{MOST_GROUPS} are as many as hotstart asks for")
        _MAX_USER_GROUPS.write_text(str(2 * limit))
    except OSError as err:
        raise GroupsExhausted(limit, f"it can't be raised from here: {err.strerror}") from err
    log.info("fanotify_groups_raised", was=limit, now=2 * limit)


def mark(group: int, path: str | Path) -> None:
    """Ask ``group`` before any read of the file ``path`` that is opened from now on."""
    _mark(group, FAN_MARK_ADD, path)


def unmark(group: int, path: str | Path) -> None:
    """Stop asking ``group``. Only for files whose data is complete: the rest reads as zeros."""
    _mark(group, FAN_MARK_REMOVE, path)


def mark_mount(group: int, path: str | Path) -> None:
    """Ask ``group`` before reads of files opened through the mount at ``path``, and no other."""
    _mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT, path)


def _mark(group: int, flags: int, path: str | Path) -> None:
    result = libc.fanotify_mark(group, flags, FAN_PRE_ACCESS, AT_FDCWD, os.fsencode(path))
    if result < 0:
        err = os_error("fanotify_mark", path)
        if err.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            raise Unsupported(
                f"{path}: no pre-content events here (needs kernel 6.14 and ext4, xfs or btrfs)"
            ) from err
        raise err


def read_event(group: int, slot: memoryview) -> bool:
    """Read one event into ``slot`` (EVENT_SLOT bytes); False when none waits.

    Raises OSError; EMFILE means that the event is lost and its reader failed with EPERM.
    """
    try:
        return os.readv(group, [slot]) > 0
    except BlockingIOError:
        return False


def decode(slot: Buffer) -> Event:
    """Return the event in ``slot``. Raises EventMalformed."""
    length, version, _, offset, mask, event_fd, pid = _METADATA.unpack_from(slot, 0)
    if version != FANOTIFY_METADATA_VERSION:
        raise EventMalformed(f"fanotify event of version {version}, expected 3")
    while offset + _RANGE.size <= length:
        kind, _, size, _, start, count = _RANGE.unpack_from(slot, offset)
        if kind == FAN_EVENT_INFO_TYPE_RANGE:
            return Event(event_fd, pid, start, count)
        offset += max(size, 4)
    raise EventMalformed(f"fanotify event (mask {mask:#x}) carries no byte range")


def event_fd_of(slot: Buffer) -> int:
    """Return the number that names the event in ``slot``, however malformed the rest is."""
    return int(_METADATA.unpack_from(slot, 0)[5])


def allow(group: int, event_fd: int) -> bool:
    """Let the reader go on; False if that event was answered before. Doesn't close ``event_fd``."""
    return _respond(group, event_fd, FAN_ALLOW)


def deny(group: int, event_fd: int, error: int = errno.EIO) -> bool:
    """Fail the read with ``error``: EIO, EPERM, EBUSY, ETXTBSY, EAGAIN, ENOSPC or EDQUOT."""
    return _respond(group, event_fd, FAN_DENY | (error & 0xFF) << 24)


def _respond(group: int, event_fd: int, response: int) -> bool:
    try:
        os.write(group, _RESPONSE.pack(event_fd, response))
    except FileNotFoundError:
        return False
    return True
