"""The whole path over an S3 store: build, run on a node that has nothing, snapshot, restore."""

import pytest

from tests.e2e.conftest import PYTHON, Hotstart, ask, free_port
from tests.requires import requires
from tests.runtime.small_image import make_tree

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.s3,
    requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon", "criu", "userfaultfd_events"),
]


@pytest.fixture
def node(scratch, s3_environment):
    """Gives roots that share one bucket, and ends their agents."""
    url = f"s3://{s3_environment.fresh_bucket()}/images"
    made = []

    def make(name):
        made.append(Hotstart(scratch / name, url))
        return made[-1]

    yield make
    for command in made:
        command.ok("agent", "stop", "--all")


def test_the_whole_path_over_s3(node, scratch):
    port = free_port()
    first = node("a")
    words = [word for part in (*PYTHON, "/app/server.py") for word in ("--cmd", part)]
    first.ok("build", make_tree(scratch / "tree"), "-t", "server:v1", *words)
    started = first.ok(
        "run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000",
        "--ready", "http://127.0.0.1:8000/", "--json",
    ).document  # fmt: skip
    assert started["fetched_bytes"] > 0
    ask(port, data=b"")
    expected = ask(port)
    first.ok("snapshot", "web", "-t", "warm:v1")
    first.ok("verify", "warm:v1")

    second = node("b")
    trusted = second.root / "keys" / "trusted"
    trusted.mkdir(parents=True)
    (trusted / "a.pub").write_bytes((first.root / "keys" / "node.pub").read_bytes())
    restored = second.ok(
        "restore", "warm:v1", "-d", "-p", f"{port}:8000", "--no-background-fill", "--json"
    ).document
    assert restored["route"] == "restore"
    assert ask(port) == expected
    stored = sum(
        first.ok("inspect", name, "--json").document["stored_bytes"]
        for name in ("server:v1", "warm:v1")
    )
    assert 0 < restored["fetched_bytes"] < stored
