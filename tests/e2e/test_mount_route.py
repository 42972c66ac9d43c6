"""From build to unmount on the route that doctor names, on whatever kernel this is."""

import pytest

from hotstart.kernel.mounts import mounts_below
from tests.lazyfs.node import make_tree, tree_digest, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]


@pytest.fixture
def own_library(hotstart, scratch):
    for name, seed in (("one", 1), ("two", 2), ("three", 3)):
        make_tree(scratch / name, megabytes=4, seed=seed)
        hotstart.ok("build", scratch / name, "-t", f"{name}:v1")
    return ("one", "two", "three")


def test_several_images_mount_on_the_route_that_doctor_names_and_read_as_built(
    hotstart, scratch, own_library
):
    # An emulated machine may start an agent for longer than one command waits for it.
    wait_until(lambda: hotstart("agent", "start").status == 0, timeout_s=400)
    told = hotstart("doctor", "--json").document
    loops = told["mounted_from"]["route"] == "loop devices"
    for name in own_library:
        target = scratch / f"mnt-{name}"
        target.mkdir()
        hotstart.ok("mount", f"{name}:v1", target)
    rows = hotstart.ok("mounts", "--json").document["mounts"]
    assert {row["filler"] for row in rows} == {told["filler"]["route"]}
    sources = [e.source for e in mounts_below(hotstart.root) if e.fstype == "erofs"]
    assert len(sources) >= 3
    assert {source.startswith("/dev/loop") for source in sources} == {loops}
    for name in own_library:
        assert tree_digest(scratch / f"mnt-{name}") == tree_digest(scratch / name)
        hotstart.ok("umount", scratch / f"mnt-{name}")
        assert not (scratch / f"mnt-{name}").is_mount()
