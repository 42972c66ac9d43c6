"""``hotstart verify`` beside a running agent, and the patience that an agent is started with."""

import hashlib
from pathlib import Path

import pytest

from tests.requires import requires

pytestmark = [pytest.mark.e2e, requires("erofs")]


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_verify_repairs_what_a_mount_reads_beside_its_agent(hotstart, scratch):
    hotstart.ok("agent", "start", "--patience", "7")
    (worker,) = [
        row["pid"]
        for row in hotstart.ok("agent", "status", "--json").document["workers"]
        if row["kind"] == "fill"
    ]
    assert b"HOTSTART_PATIENCE=7" in Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    assert hotstart("agent", "start", "--patience", "8").status == 102

    (scratch / "mnt").mkdir()
    hotstart.ok("mount", "shell:v1", scratch / "mnt")
    hotstart.ok("pull", "shell:v1")
    program = scratch / "mnt" / "bin" / "busybox"
    good = digest_of(program)
    assert hotstart.ok("verify", "shell:v1", "--json").document["cache"]["chunks"] > 0

    (device,) = (hotstart.root / "cache" / "devices").glob("*.dev")
    with device.open("r+b") as file:
        file.seek(8192)
        file.write(b"wrong" * 100)
    hotstart.ok("verify", "shell:v1", "--no-cache")
    found = hotstart("verify", "shell:v1")
    assert found.status == 108, found
    assert "repaired" in found.err
    assert digest_of(program) == good
    # Without a reference: all of them, other tests' snapshots by keys of their own among them.
    everything = hotstart("verify")
    assert "shell:v1" not in everything.err
    assert "repaired" not in everything.err
