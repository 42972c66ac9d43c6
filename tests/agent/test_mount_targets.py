"""How far a person's mount reads ahead: as asked for, else as is best for what is here."""

from dataclasses import replace

import pytest

from agent.mount_targets import DEFAULT_READ_AHEAD_KIB, MountTargets
from agent.state import MountRow, State
from hotstart.core.digest import Digest
from hotstart.store.descriptor import Descriptor
from lazyfs.spec import MountSpec
from runtime.cold_start import LOCAL_READ_AHEAD_KIB

pytestmark = [pytest.mark.kernel]
SPEC = MountSpec("a" * 64, Descriptor("application/x", Digest.of(b"b"), 1), (), "file:///store")


class Images:
    """One image, at a directory of the test's; notes what is asked for."""

    def __init__(self, path):
        self.path, self.local, self.read_aheads = path, False, []

    def is_local(self, spec):
        return self.local

    def mount(self, spec, *, read_ahead_kib):
        self.read_aheads.append(read_ahead_kib)
        return self

    def release(self):
        pass


@pytest.fixture
def images(tmp_path):
    (tmp_path / "image").mkdir()
    return Images(tmp_path / "image")


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state.db")
    yield state
    state.close()


@pytest.fixture
def row(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    return MountRow(
        str(target), "image:1", f"sha256:{SPEC.manifest}", "fanotify", 0, SPEC.to_json()
    )


def test_a_mount_whose_read_ahead_is_left_open_gets_more_of_it_once_all_is_here(state, images, row):
    targets = MountTargets(state, images)
    targets.mount(row)
    try:
        images.local = True
        MountTargets(state, images).adopt({SPEC.manifest})
    finally:
        targets.umount_all()
    assert images.read_aheads == [DEFAULT_READ_AHEAD_KIB, LOCAL_READ_AHEAD_KIB]


def test_a_read_ahead_that_was_asked_for_is_kept(state, images, row):
    images.local = True
    targets = MountTargets(state, images)
    targets.mount(replace(row, read_ahead_kib=4))
    targets.umount_all()
    assert images.read_aheads == [4]
