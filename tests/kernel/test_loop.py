"""Loop devices read what the file holds and go with their last user."""

import os
from pathlib import Path

import pytest

from hotstart.kernel.loop import attach

pytestmark = pytest.mark.kernel


def test_an_attached_file_is_read_through_its_device_and_cannot_be_written(scratch):
    file = scratch / "file"
    file.write_bytes(os.urandom(1 << 20))
    device, opened = attach(file)
    try:
        assert os.pread(opened, 1 << 20, 0) == file.read_bytes()
        assert (device.parent / device.name).is_block_device()
        assert Path(f"/sys/block/{device.name}/ro").read_text().strip() == "1"
    finally:
        os.close(opened)


def test_a_closed_device_is_free_again(scratch):
    file = scratch / "file"
    file.write_bytes(bytes(4096))
    device, opened = attach(file)
    os.close(opened)
    backing = Path(f"/sys/block/{device.name}/loop/backing_file")
    assert not backing.exists() or backing.read_text().strip() != str(file)
