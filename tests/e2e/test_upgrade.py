"""A node is upgraded under load: agent and fill worker run the new code, and no read fails."""

import random
import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import SOURCE, Hotstart, eventually
from tests.requires import requires

pytestmark = [pytest.mark.e2e, requires("erofs", "fanotify_pre_content")]

PACKAGES = ("agent", "cli", "hotstart", "image_builder", "lazyfs", "runtime", "snapshotter")
READER = """
import os, random, sys, time
file, source = (os.open(path, os.O_RDONLY) for path in sys.argv[1:3])
pages = list(range(os.fstat(source).st_size // 4096))
random.Random(1).shuffle(pages)
print("reads", flush=True)
os.set_blocking(0, False)
for page in pages:
    if os.pread(file, 4096, page * 4096) != os.pread(source, 4096, page * 4096):
        sys.exit("a wrong byte")
    try:
        if os.read(0, 1) == b"":
            os.set_blocking(0, True)  # told to go on as fast as it can
    except BlockingIOError:
        time.sleep(0.002)  # a reader that does something with what it reads
"""


class Installed(Hotstart):
    """A command line that is installed in a place of its own, where it can be upgraded."""

    def __init__(self, place, root, store):
        super().__init__(root, store)
        self.place = place
        for package in PACKAGES:
            shutil.copytree(
                SOURCE / package, place / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        self.env["PYTHONPATH"] = str(place)

    def argv(self, *words):
        return [sys.executable, "-P", "-m", "cli.main", *map(str, words)]

    def upgrade(self):
        module = self.place / "lazyfs" / "fill_service.py"
        module.write_text(module.read_text() + "\nUPGRADED = True\n")

    def workers(self):
        document = self.ok("agent", "status", "--json").document
        return {w["kind"]: w["pid"] for w in document["workers"]}


@pytest.fixture
def installed(scratch):
    command = Installed(scratch / "place", scratch / "r", scratch / "store")
    try:
        yield command
    finally:
        ended = command("agent", "stop", "--all")
    assert ended.status == 0, ended


def test_an_upgrade_replaces_agent_and_worker_and_readers_merely_wait(installed, scratch):
    (scratch / "tree").mkdir()
    (scratch / "mnt").mkdir()
    source = scratch / "tree" / "large"
    source.write_bytes(random.Random(3).randbytes(24 << 20))
    installed.ok("build", scratch / "tree", "-t", "large:v1")
    installed.ok("mount", "large:v1", scratch / "mnt")
    before = installed.workers()
    argv = [sys.executable, "-c", READER, str(scratch / "mnt" / "large"), str(source)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reader:
        assert reader.stdout.readline() == b"reads\n"
        installed.ok("agent", "stop")
        installed.upgrade()
        installed.ok("agent", "start")
        eventually(lambda: installed.workers()["fill"] not in (None, before["fill"]), "a worker")
        assert reader.poll() is None, reader.stderr.read()
        after = installed.workers()
        assert after["keeper"] == before["keeper"]
        _, complaints = reader.communicate(timeout=60)
    assert (reader.returncode, complaints) == (0, b"")
    installed.ok("agent", "stop")
    installed.ok("agent", "start")
    assert installed.workers() == after, "nothing is replaced by what it is already"
