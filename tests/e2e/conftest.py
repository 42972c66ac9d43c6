"""The command line as a user has it: a process for each command, agents started on demand.

Images are built once in a session, into one store; every test has a root of its own, and its
agent is ended with everything it owns. ``Hotstart.ok`` fails with what the command said.
"""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.runtime.small_image import make_tree
from tests.waiting import wait_until

SOURCE = Path(__file__).parents[2]
COMMAND_TIMEOUT_S = float(os.environ.get("COMMAND_TIMEOUT_S", "90"))
PYTHON = ("/usr/bin/python3", "-S", "-E", "-B")
MAIN = """import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
exec(open("/app/server.py").read())
"""
eventually = wait_until
SLEEP = ("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
"""A program that ends when it is asked to: the first process of a container must say so itself."""


class Result:
    """How one command ended."""

    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    @property
    def document(self):
        return json.loads(self.out)

    @property
    def error(self):
        return self.document["error"]

    def __repr__(self):
        return f"status {self.status}\nstdout: {self.out}\nstderr: {self.err}"


class Hotstart:
    """The command line with one root and one store."""

    def __init__(self, root, store):
        self.root = root
        self.store = store
        self.env = {**os.environ, "HOTSTART_ROOT": str(root), "HOTSTART_STORE": str(store)}
        self.env["PYTHONPATH"] = str(SOURCE)

    def argv(self, *words):
        return [sys.executable, "-m", "cli.main", *map(str, words)]

    def __call__(self, *words, stdin=""):
        done = subprocess.run(
            self.argv(*words),
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return Result(done)

    def ok(self, *words, stdin=""):
        result = self(*words, stdin=stdin)
        assert result.status == 0, f"hotstart {' '.join(map(str, words))}: {result}"
        return result

    def start(self, *words):
        """Start a command that stays; the caller ends it."""
        return subprocess.Popen(
            self.argv(*words),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def names(self):
        return [c["name"] for c in self.ok("ps", "--json").document["containers"]]

    def container(self, name):
        (found,) = [c for c in self.ok("ps", "--json").document["containers"] if c["name"] == name]
        return found

    def nothing_runs(self):
        """Assert that no container of this root is left running or half-made."""
        assert [
            c["name"]
            for c in self.ok("ps", "--json").document["containers"]
            if c["state"] == "running"
        ] == []
        state = self.root / "containers"
        assert not state.exists() or not [
            path for path in state.iterdir() if (path / "rootfs").is_mount()
        ]


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A store with the images that tests start: ``server:v1`` and ``shell:v1``."""
    place = tmp_path_factory.mktemp("lib")
    build = Hotstart(place / "r", place / "store")
    tree = make_tree(place / "tree")
    shell = place / "shell"
    (shell / "bin").mkdir(parents=True)
    for name in ("proc", "sys", "dev", "etc", "tmp", "data"):
        (shell / name).mkdir()
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("busybox is not installed")
    (shell / "bin/busybox").write_bytes(busybox.read_bytes())
    (shell / "bin/busybox").chmod(0o755)
    for name in ("sh", "cat", "echo", "sleep", "env", "id", "ls", "wc", "httpd", "true", "pwd"):
        (shell / "bin" / name).symlink_to("busybox")
    (tree / "app/main.py").write_text(MAIN)
    command = [word for part in (*PYTHON, "/app/main.py") for word in ("--cmd", part)]
    build.ok("build", tree, "-t", "server:v1", *command)
    build.ok("build", shell, "-t", "shell:v1", "--cmd", "/bin/sh", "--env", "FROM_IMAGE=yes")
    build.ok("build", shell, "-t", "empty:v1")
    return place / "store"


@pytest.fixture
def hotstart(scratch, library):
    """A fresh root on the session's store; whatever it started is gone afterwards."""
    yield from _root(scratch / "r", library)


@pytest.fixture
def other(scratch, library):
    """A second root beside the first."""
    yield from _root(scratch / "o", library)


@pytest.fixture
def own_store(scratch):
    """A root with an empty store of its own."""
    yield from _root(scratch / "s", scratch / "store")


def _root(path, store):
    command = Hotstart(path, store)
    try:
        yield command
    finally:
        ended = command("agent", "stop", "--all")
    assert ended.status == 0, ended


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def port():
    return free_port()


def ask(port, path="/", data=None, timeout_s=10):
    """Send one request to a published port and return the parsed answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310  # http, above
        return json.loads(answer.read())


def answers(port):
    """Whether anybody listens on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False
