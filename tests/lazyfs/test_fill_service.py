"""What the fill worker does with sets that it cannot serve."""

import os
from types import SimpleNamespace

import pytest

from hotstart.kernel.keeper_client import HandleSet
from lazyfs.device_handles import KIND, DeviceMeta, device_set_name
from lazyfs.fill_service import FillService, SetUnknown
from lazyfs.journal import JournalVersionUnknown, create_journal
from lazyfs.pulls import Pulls
from tests.lazyfs.small_device import SmallDevice


class Keeper:
    """Gives one set, once."""

    def __init__(self, held):
        self._held = held

    def get(self, name):
        return self._held


@pytest.fixture
def meta(tmp_path):
    spec = SmallDevice(tmp_path).spec
    return DeviceMeta(spec, "/x.dev", "/x.ready", "/x.dev", recording="r")


def refused_set(meta, tmp_path, fds):
    """Return the service and the set, whose attaching is about to fail."""
    held = HandleSet("recording/r/x", KIND, meta.to_json(), list(fds))
    return FillService(Keeper(held), pulls=Pulls(tmp_path))


def are_closed(fds):
    return not any(os.path.exists(f"/proc/self/fd/{fd}") for fd in fds)


@pytest.mark.parametrize("fuse_target", ["", "/x"])
def test_a_recording_of_a_device_that_is_not_served_is_refused_by_name(meta, tmp_path, fuse_target):
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(1 if fuse_target else 3)]
    value = {**meta.to_json(), "fuse_target": fuse_target}
    service = refused_set(DeviceMeta.from_json(value), tmp_path, fds)
    with pytest.raises(SetUnknown):
        service.attach("recording/r/x")
    assert are_closed(fds)
    service.close()


def test_a_set_whose_journal_is_of_another_version_is_closed_once(meta, tmp_path):
    journal = create_journal()
    os.pwrite(journal, b"HSJRNL\xff\xff", 0)
    fds = [os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY), journal]
    service = refused_set(meta, tmp_path, fds)
    own = device_set_name(meta.device.device_id)
    service._sets[own] = meta, SimpleNamespace(device=None)
    with pytest.raises(JournalVersionUnknown):
        service.attach("recording/r/x")
    assert are_closed(fds)
    service.close()
