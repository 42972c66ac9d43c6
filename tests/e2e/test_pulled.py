"""What was pulled starts without its store, and never in place of what the store says."""

import shutil

import pytest

from tests.e2e.conftest import SLEEP, Hotstart, ask
from tests.requires import requires

pytestmark = [
    pytest.mark.e2e,
    requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon"),
]


@pytest.fixture
def copy(library, scratch):
    """A root with a copy of the session's store, which may go away."""
    store = scratch / "copy"
    shutil.copytree(library, store)
    command = Hotstart(scratch / "c", store)
    yield command
    command.ok("agent", "stop", "--all")


def test_what_was_pulled_needs_no_store_and_an_answer_of_the_store_is_believed(copy, scratch):
    copy.ok("pull", "shell:v1")
    away = copy.store.with_name("away")
    copy.store.rename(away)
    ran = copy.ok("run", "shell:v1", "--", "/bin/echo", "here")
    assert ran.out == "here\n"
    assert ran.err.count("does not answer: shell:v1 is taken as it was pulled") == 1
    (scratch / "m").mkdir()
    copy.ok("mount", "shell:v1", scratch / "m")
    assert (scratch / "m" / "bin" / "busybox").read_bytes()[:4] == b"\x7fELF"
    copy.ok("umount", scratch / "m")
    assert copy("run", "server:v1", "--", *SLEEP).status == 101  # it was not pulled

    away.rename(copy.store)
    assert "is taken as it was pulled" not in copy.ok("run", "shell:v1", "--", "/bin/true").err
    copy.ok("rm", "--image", "shell:v1")
    assert copy("run", "shell:v1", "--", "/bin/true").status == 101
    copy.store.rename(away)
    assert copy("run", "shell:v1", "--", "/bin/true").status == 101  # the store had said so
    away.rename(copy.store)


@requires("criu", "userfaultfd_events")
def test_a_snapshot_that_was_pulled_is_restored_without_its_store(copy, port):
    publish, ready = f"{port}:8000", ("--ready", "http://127.0.0.1:8000/")
    copy.ok("run", "server:v1", "-d", "--name", "web", "-p", publish, *ready)
    ask(port, data=b"")
    copy.ok("snapshot", "web", "-t", "warm:v1", "--stateful")
    copy.ok("pull", "warm:v1")
    away = copy.store.with_name("away")
    copy.store.rename(away)
    restored = copy.ok("restore", "warm:v1", "-d", "--name", "again", "-p", publish, "--json")
    assert restored.document["route"] == "restore"
    assert ask(port)["count"] == 1
    away.rename(copy.store)
