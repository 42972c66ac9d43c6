"""gc of a store whose images share packs: who reads it already and who comes later read right."""

import random

import pytest

from tests.e2e.conftest import Hotstart
from tests.faults.rows import fault_row
from tests.requires import requires

pytestmark = [pytest.mark.e2e, requires("erofs")]

FILES, BYTES = 8, 600_000


def stored_bytes(store):
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def contents(mount):
    return {path.name: path.read_bytes() for path in mount.iterdir()}


@pytest.fixture
def fresh(scratch, own_store):
    """A node that has nothing of the store yet."""
    node = Hotstart(scratch / "fresh", own_store.store)
    yield node
    ended = node("agent", "stop", "--all")
    assert ended.status == 0, ended


@fault_row("gc rewrites the pack that a reader reads", "the right bytes")
def test_images_that_share_a_rewritten_pack_are_mounted_verified_and_built_upon(
    own_store, fresh, scratch
):
    tree = scratch / "tree"
    tree.mkdir()
    source = random.Random(6)
    for number in range(FILES):
        (tree / f"file-{number}").write_bytes(source.randbytes(BYTES))
    own_store.ok("build", tree, "-t", "app:v1")
    for number in range(2, FILES):
        (tree / f"file-{number}").unlink()
    own_store.ok("build", tree, "-t", "app:v2", "--base", "app:v1")
    wanted = contents(tree)
    before = scratch / "before"
    before.mkdir()
    own_store.ok("mount", "app:v2", before)
    assert (before / "file-0").read_bytes() == wanted["file-0"]

    own_store.ok("rm", "app:v1")
    size = stored_bytes(own_store.store)
    told = own_store.ok("gc", "--grace", "0", "--dry-run")
    assert "would rewrite 1 packs of 4.6 MiB" in told.err
    assert stored_bytes(own_store.store) == size
    found = own_store.ok("gc", "--grace", "0", "--json").document["gc"]
    assert found["rewritten"]["packs"] == 1
    assert found["rewritten"]["freed_bytes"] >= (FILES - 2) * BYTES
    assert size - stored_bytes(own_store.store) > 0.99 * (FILES - 2) * BYTES
    listed = own_store.ok("images", "--json").document["images"]
    assert [row["reference"] for row in listed] == ["app:v2"]

    assert contents(before) == wanted
    own_store.ok("verify", "app:v2")
    after = scratch / "after"
    after.mkdir()
    fresh.ok("mount", "app:v2", after)
    assert contents(after) == wanted
    fresh.ok("pull", "app:v2")
    fresh.ok("verify")

    (tree / "new").write_bytes(source.randbytes(BYTES))
    built = own_store.ok("build", tree, "-t", "app:v3", "--base", "app:v2", "--json").document
    assert BYTES <= built["stats"]["uploaded_bytes"] < 2 * BYTES
    own_store.ok("gc", "--grace", "0")
    third = scratch / "third"
    third.mkdir()
    fresh.ok("mount", "app:v3", third)
    assert contents(third) == contents(tree)
    fresh.ok("verify")
    for node, target in ((own_store, before), (fresh, after), (fresh, third)):
        node.ok("umount", target)
