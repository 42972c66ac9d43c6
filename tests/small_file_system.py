"""A real ext4 file system of 64 MiB, for tests of full disks and of caches that must stay small."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import pytest

from hotstart.core.run import run
from hotstart.kernel.mounts import mount, unmount
from tests.leftovers import detach_loop
from tests.waiting import wait_until

SIZE_BYTES = 64 << 20
LOOP_CTL_GET_FREE = 0x4C82  # <linux/loop.h>
LOOP_SET_FD = 0x4C00


@contextlib.contextmanager
def loop_device(image: Path):
    """Yield the path of a loop device with ``image`` behind it."""
    with open("/dev/loop-control", "rb") as control, open(image, "r+b") as file:
        while True:
            device = Path(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}")
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, LOOP_SET_FD, file.fileno())
                break
            except BlockingIOError:
                continue
            except OSError as err:
                if err.errno != 16:  # EBUSY: another took it in between
                    raise
            finally:
                os.close(loop)
    try:
        yield device
    finally:
        detach_loop(device)


@pytest.fixture
def small_file_system(tmp_path):
    """The root of an empty ext4 of 64 MiB; tests that use it are marked ``kernel``."""
    image, target = tmp_path / "small.ext4", tmp_path / "small"
    with open(image, "wb") as file:
        file.truncate(SIZE_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)])
    target.mkdir()
    with loop_device(image) as device:
        mount(str(device), target, "ext4")
        try:
            yield target
        finally:
            _unmount_when_idle(target)


def _unmount_when_idle(target):
    """A keeper that was told to end may hold its directory for a moment more."""

    def unmounted():
        try:
            unmount(target)
        except OSError as err:
            if err.errno != errno.EBUSY:
                raise
            return False
        return True

    wait_until(unmounted, f"the end of the use of {target}")
