"""Bytes of an image that are wrong in the store: whoever starts a container hears what is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Hotstart
from tests.requires import requires

pytestmark = [
    pytest.mark.e2e,
    requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon"),
]

INTEGRITY = 104
READY = ("--ready", "http://127.0.0.1:8000/")


@pytest.fixture
def copy(library, scratch):
    """A copy of the session's store, whose blobs may be damaged, and a root that starts from it."""
    store = scratch / "copy"
    shutil.copytree(library, store)
    command = Hotstart(scratch / "c", store)
    yield command
    command.ok("agent", "stop", "--all")


def blob(store, digest):
    (found,) = Path(store, "blobs").rglob(digest.removeprefix("sha256:"))
    return found


def damage(hotstart, reference, *kinds):
    """Flip a byte in each 4 KiB of a reference's layers of these kinds; return what they were."""
    digest = hotstart.ok("inspect", reference, "--json").document["digest"]
    manifest = json.loads(blob(hotstart.store, digest).read_bytes())
    wrong = [
        layer["digest"]
        for layer in manifest["layers"]
        if any(f".{kind}." in layer["mediaType"] for kind in kinds)
    ]
    assert wrong
    undamaged = {path: path.read_bytes() for path in (blob(hotstart.store, one) for one in wrong)}
    for path, stored in undamaged.items():
        content = bytearray(stored)
        for at in range(min(len(content) - 1, 2000), len(content), 4096):
            content[at] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
    return undamaged


def test_an_image_that_is_wrong_in_the_store_is_not_run_and_what_is_wrong_is_named(copy, other):
    other.env["HOTSTART_STORE"] = str(copy.store)
    other.ok("run", "shell:v1", "--", "/bin/true")  # recorded: the next fetches on demand
    other.ok("trace", "shell:v1")
    undamaged = damage(copy, "shell:v1", "chunk-table")
    ran = copy("run", "shell:v1", "--name", "one", "--", "/bin/true")
    assert ran.status == INTEGRITY, ran
    assert "files of shell:v1 could not be read: chunk table: digest is " in ran.err
    assert "hotstart verify shell:v1" in ran.err

    for path, content in undamaged.items():
        path.write_bytes(content)
    damage(copy, "shell:v1", "pack")
    ran = copy("run", "shell:v1", "--name", "one", "--", "/bin/true")
    assert ran.status == INTEGRITY, ran
    assert "exec /bin/true: input/output error\n" in ran.err
    assert f"file://{copy.store}: blob sha256:" in ran.err
    assert "came wrong twice" in ran.err
    assert "came wrong twice" in copy.container("one")["reason"]
    copy.nothing_runs()


@requires("criu", "userfaultfd_events")
def test_a_snapshot_that_is_wrong_in_the_store_names_the_chunk_and_starts_cold_for_it(
    copy, other, port
):
    other.env["HOTSTART_STORE"] = str(copy.store)
    other.ok("run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000", *READY)
    other.ok("snapshot", "web", "-t", "warm:v1", "--stateless")
    keys = copy.root / "keys" / "trusted"
    keys.mkdir(parents=True)
    shutil.copy(other.root / "keys" / "node.pub", keys / "other.pub")
    damage(copy, "warm:v1", "pack", "bundle")
    ran = copy("restore", "warm:v1", "-d", "--no-fallback", "--json")
    assert ran.status == INTEGRITY, ran
    for words in ("blob sha256:", "came wrong twice", "hotstart verify warm:v1"):
        assert words in ran.error["message"], ran
    cold = copy.ok("restore", "warm:v1", "-d", "--name", "cold", "--json")
    assert cold.document["route"] == "cold"
    assert "came wrong twice" in cold.document["fallback_reason"]
