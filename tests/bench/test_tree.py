"""The demo tree is built once, visible only when complete, and really serves embeddings."""

import json
import math
import signal
import socket
import struct
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from bench.workload import tree
from bench.workload.tree import default_cache, ensure_tree
from hotstart.core.errors import Unsupported
from hotstart.core.run import PIPE, CommandFailed, spawn
from hotstart.kernel.mounts import bind, overlay, unmount


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(_wanted):
        raise CommandFailed(["pip"], 1, "no network")

    monkeypatch.setattr(tree.os, "geteuid", lambda: 0)
    monkeypatch.setattr(tree, "configured_mirror", lambda: None)
    monkeypatch.setattr(tree.requirements, "resolve", fail)
    with pytest.raises(CommandFailed, match="no network"):
        ensure_tree(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo-tree.lock"]


def test_only_root_builds_a_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(tree.os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match="run as root"):
        ensure_tree(tmp_path)


@pytest.fixture(scope="module")
def demo():
    """The tree that the benchmark uses, built here if it isn't yet."""
    return ensure_tree(default_cache())


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_every_pyc_of_the_tree_is_valid(demo):
    checked = 0
    for pyc in demo.root.glob("**/__pycache__/*.cpython-311.pyc"):
        source = pyc.parent.parent / (pyc.name.removesuffix(".cpython-311.pyc") + ".py")
        if source.is_symlink() and source.readlink().is_absolute():  # leads out of the tree here
            source = demo.root / source.readlink().relative_to("/")
        with pyc.open("rb") as file:
            flags, mtime, size = struct.unpack("<4xIII", file.read(16))
        found = source.stat()
        assert (flags, mtime, size) == (0, int(found.st_mtime), found.st_size), pyc
        checked += 1
    assert checked > 5000


@pytest.mark.e2e
def test_the_tree_holds_no_cuda_and_no_device(demo):
    packages = json.loads((demo.root.parent / "about.json").read_text())["packages"]
    assert not [name for name in packages if name.startswith(("nvidia", "cuda", "triton"))]
    assert list((demo.root / "dev").iterdir()) == []


@pytest.fixture
def root(demo, scratch):
    """The tree with devices in it, and writable: an overlay keeps the tree itself as it is."""
    upper, work, target = (scratch / name for name in ("upper", "work", "root"))
    for path in (upper, work, target):
        path.mkdir()
    with ExitStack() as mounts:
        overlay([demo.root], upper, work, target)
        mounts.callback(unmount, target)
        for name in ("dev", "proc"):
            bind(f"/{name}", target / name)
            mounts.callback(unmount, target / name)
        yield target


@pytest.fixture
def served(demo, root):
    """The real server in a chroot; its process and the port that it answers on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**demo.environment, "PORT": str(port)}
    argv = ["chroot", str(root), *demo.argv]
    with spawn(argv, env=environment, stdout=PIPE) as process:
        try:
            assert process.stdout.readline().startswith(b"ready ")
            yield process, port
        finally:
            process.kill()
            process.wait()  # before its root is unmounted


def ask(port, path, body=None):
    """Return status and document of one request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # loopback
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read()


def embed(port, text):
    status, body = ask(port, "/embed", json.dumps({"text": text}).encode())
    assert status == 200
    return json.loads(body)["vector"]


@pytest.mark.e2e
def test_the_server_embeds_refuses_nonsense_and_ends_when_told(served):
    process, port = served
    assert ask(port, "/health") == (200, b"ok")
    cat, again, law = (embed(port, text) for text in ("a cat", "a cat", "tax law of 1923"))
    assert len(cat) == 384
    assert math.isclose(math.hypot(*cat), 1, rel_tol=1e-5)
    assert cat == pytest.approx(again, abs=1e-6)
    assert sum(a * b for a, b in zip(cat, law, strict=True)) < 0.5
    for body in (b"", b"{", b"[]", b'{"text": 3}'):
        assert ask(port, "/embed", body)[0] == 400
    assert ask(port, "/other")[0] == 404
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
