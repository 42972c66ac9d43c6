"""The whole path over an S3 store: build, run on a node that has nothing, snapshot, restore."""

import signal

import pytest

from bench.link_emulator import Link, LinkEmulator
from tests.e2e.conftest import PYTHON, Hotstart, ask, eventually, free_port
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


def test_a_download_that_is_interrupted_ends_and_the_name_is_free(node, scratch, s3_environment):
    """Over a link on which all of it would take minutes."""
    near = node("a")
    near.ok("build", make_tree(scratch / "tree"), "-t", "server:v1", "--cmd", "/bin/true")
    port = int(s3_environment.endpoint.rpartition(":")[2])
    with LinkEmulator(port, Link(1.0, 0.01), scratch) as link:
        far = Hotstart(scratch / "b", near.store)
        far.env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{link.port}"
        marks = far.root / "run" / "pulling"
        try:
            for *words, way in (("run", "--name", "web", "stop"), ("run", "INT"), ("pull", "INT")):
                starting = far.start(*words, "server:v1")
                eventually(lambda: marks.is_dir() and list(marks.iterdir()), "the download", 60)
                if way == "stop":
                    far.ok("stop", "web")
                else:
                    starting.send_signal(signal.SIGINT)
                _, said = starting.communicate(timeout=20)
                assert starting.returncode == 130, said
                eventually(lambda: not list(marks.iterdir()), "the end of the download")
                assert far.names() == []
        finally:
            far.ok("agent", "stop", "--all")
