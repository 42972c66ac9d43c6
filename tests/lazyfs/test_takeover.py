"""Workers, the keeper and the agent may die at any instant: no wrong byte, no failed read."""

import errno
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.core.errors import HotstartError
from hotstart.core.run import DEVNULL, PIPE, run, spawn
from hotstart.kernel.mounts import is_mounted, mounts_below
from hotstart.store.ready_map_header import current_boot_id
from lazyfs.crash_points import CrashPoint
from lazyfs.plans import EverythingPlan
from lazyfs.served_devices import FUSE
from tests.faults.rows import fault_row
from tests.lazyfs.node import Image, make_tree, running_node, tree_digest, wait_until
from tests.store.answering_server import Answer, answering

pytestmark = [pytest.mark.kernel]

MAPPED_READS = """
import mmap, os, random, sys
big, source = (os.open(path, os.O_RDONLY) for path in sys.argv[1:3])
mapped = mmap.mmap(big, 0, prot=mmap.PROT_READ)
random.seed(int(sys.argv[3]))
pages = len(mapped) // 4096
bad = 0
for _ in range(1500):
    page = random.randrange(pages)
    bad += mapped[page * 4096:page * 4096 + 4096] != os.pread(source, 4096, page * 4096)
sys.exit(bad != 0)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=32), root / "store")


@pytest.fixture(scope="module")
def right(image):
    return tree_digest(image.source)


def start_readers(mounted: Path, source: Path):
    """Processes that read everything, each in its own way; each ends with 0 if all was right."""
    large, original = str(mounted / "large"), str(source / "large")
    mapped = ["python3", "-c", MAPPED_READS, large, original]
    return [
        spawn(["cmp", large, original], stdout=PIPE, stderr=PIPE),
        spawn(["diff", "-rq", str(mounted), str(source)], stdout=PIPE, stderr=PIPE),
        *(spawn([*mapped, str(seed)], stdout=PIPE, stderr=PIPE) for seed in (5, 6)),
    ]


def finish(readers):
    """Return what the readers had to say against the mount."""
    complaints = []
    for reader in readers:
        out, err = reader.communicate(timeout=120)
        if reader.returncode != 0:
            complaints.append((reader.args, reader.returncode, out[-500:], err[-500:]))
    return complaints


def read_under_kills(node, image, kills, seed):
    """Read everything while the worker is killed; return (complaints, kills done)."""
    chance, done = random.Random(seed), 0
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        readers = start_readers(mounted.path, image.source)
        while done < kills and any(reader.poll() is None for reader in readers):
            node.worker.ping()  # one that is killed before it serves shows nothing
            time.sleep(chance.uniform(0.0, 0.12))  # dies at any moment
            done += node.kill_worker()
        return finish(readers), done


def kill_often(tmp_path, image, kills):
    """Kill workers of as many nodes as it takes: a node whose image is all here shows no more."""
    done = rounds = 0
    while done < kills:
        with running_node(tmp_path / f"node{rounds}", "--slow-at", "fetched:10") as node:
            complaints, dead = read_under_kills(node, image, kills - done, rounds)
        assert complaints == []
        assert dead > 0, "the readers were done before anything was killed"
        done, rounds = done + dead, rounds + 1
        shutil.rmtree(tmp_path / f"node{rounds - 1}")


@fault_row(
    "the fill worker is killed at any instant",
    "waits for its successor, then the right bytes",
)
def test_fifty_kills_under_readers_leave_no_wrong_byte(tmp_path, image):
    kill_often(tmp_path, image, 50)


@pytest.mark.soak
def test_a_thousand_kills_under_readers_leave_no_wrong_byte(tmp_path, image):
    kill_often(tmp_path, image, 1000)


AT_TAKEOVER = (CrashPoint.LEFT_BEHIND_ANSWERED, CrashPoint.LEFT_BEHIND_CLEARED)
"""Only the successor of a worker that was killed passes these."""


@pytest.mark.parametrize(
    "point", [point for point in CrashPoint if point not in AT_TAKEOVER], ids=lambda p: p.value
)
def test_a_crash_at_a_named_point_leaves_no_wrong_byte(tmp_path, image, right, point):
    """Each worker dies when it passes the point for the twentieth time, its successors too."""
    with (
        running_node(tmp_path / "node", "--crash-at", f"{point.value}:20") as node,
        node.mounts.mount(image.spec, read_ahead_kib=1024) as mounted,
    ):
        readers = start_readers(mounted.path, image.source)
        assert finish(readers) == []
        assert node.guard.status()["workers"]["fill"]["starts"] > 2
        assert tree_digest(mounted.path) == right


@pytest.mark.parametrize("point", AT_TAKEOVER, ids=lambda point: point.value)
def test_a_successor_that_dies_while_it_takes_over_leaves_no_wrong_byte(
    tmp_path, image, right, point
):
    """A successor dies at the second event that it was left; the next one answers the rest."""
    crash = ("--crash-at", f"{point.value}:2", "--slow-at", "fetched:10")
    with (
        running_node(tmp_path / "node", *crash) as node,
        node.mounts.mount(image.spec, read_ahead_kib=64) as mounted,
    ):
        readers, kills, chance = start_readers(mounted.path, image.source), 0, random.Random(3)

        def starts():
            return node.guard.status()["workers"]["fill"]["starts"]

        while starts() <= kills + 1 and any(reader.poll() is None for reader in readers):
            node.worker.ping()
            time.sleep(chance.uniform(0.0, 0.12))  # readers get on, so that there is an end
            kills += node.kill_worker()
            wait_until(lambda before=kills: starts() > before)
            node.worker.ping()
        died_by_itself = starts() - kills - 1
        assert finish(readers) == []
        assert died_by_itself > 0
        assert tree_digest(mounted.path) == right


@fault_row(
    "worker and agent are upgraded under load",
    "waits for the successor, then the right bytes",
)
def test_a_worker_of_other_code_is_replaced_under_load(tmp_path, image, right):
    """What an upgrade does: the next agent finds a worker that was started from other code."""
    with running_node(tmp_path / "node", "--slow-at", "fetched:150", idle_limit=4) as node:
        mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
        readers = start_readers(mounted.path, image.source)
        for version in ("one", "two", "three"):
            before = node.worker_pid()
            node.abandon()
            node.start(code=version)
            assert node.guard.renew_workers() == ["fill"]
            wait_until(lambda pid=before: node.worker_pid() not in (None, pid))
            node.worker.ping()
            assert node.guard.renew_workers() == []
            assert node.mounts.adopt() == 1
        assert any(reader.poll() is None for reader in readers), "nobody was reading any more"
        assert finish(readers) == []
        assert tree_digest(mounted.path) == right


def stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "T"


@fault_row("the keeper dies", "waits for the next one, then the right bytes")
def test_a_dead_keeper_is_replaced_and_readers_merely_wait(tmp_path, image, right):
    with (
        running_node(tmp_path / "node") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64) as mounted,
    ):
        pid = node.worker_pid()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: stopped(pid))
        readers = start_readers(mounted.path, image.source)
        node.kill_keeper()
        assert finish(readers) == []
        assert node.worker_pid() != pid
        assert tree_digest(mounted.path) == right


def test_the_next_agent_adopts_mounts_and_handles(tmp_path, image, right):
    with running_node(tmp_path / "node", idle_limit=4) as node:
        mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
        run(["head", "-c", "65536", str(mounted.path / "large")])
        node.abandon()
        node.start()
        assert node.mounts.adopt() == 1
        again = node.mounts.mount(image.spec, read_ahead_kib=64)
        assert again.path == mounted.path
        assert tree_digest(again.path) == right
        again.release()
        node.mounts.unmount_all()
        assert mounts_below(node.root) == []


@fault_row("the agent dies", "nothing: worker and keeper go on")
def test_readers_go_on_while_no_agent_lives(tmp_path, image, right):
    with running_node(tmp_path / "node", idle_limit=4) as node:
        mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
        node.abandon()
        assert tree_digest(mounted.path) == right
        node.start()
        node.mounts.adopt()


def test_mounts_that_nobody_holds_handles_of_are_told_and_cleared(tmp_path, image):
    """Keeper and agent both died: what is still mounted would read zeros."""
    with running_node(tmp_path / "node", idle_limit=4) as node:
        mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
        node.abandon()
        node.kill_keeper()
        node.start()
        assert node.mounts.adopt() == 0
        assert node.mounts.lost == (mounted.path,)
        assert not is_mounted(mounted.path)


ZEROS = """
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.write(1, b"open\\n")
for line in sys.stdin:
    content = os.pread(file, 1 << 20, 0)
    os.write(1, b"zeros\\n" if content == bytes(len(content)) else b"bytes\\n")
"""


@fault_row(
    "keeper and agent die together, and the image is mounted again",
    "zeros may be read until the next agent ends the container, with the reason; "
    "nobody later sees those pages",
)
def test_pages_that_were_read_as_zeros_are_not_served_to_those_who_come_later(
    tmp_path, image, right
):
    """Nobody holds the handles: the kernel lets zeros through and keeps them in its page cache.

    The mount that has them is never used again, though a process holds it: its pages stay zeros
    there, and the image is mounted anew.
    """
    with running_node(tmp_path / "node", idle_limit=4) as node:
        mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
        victim = [sys.executable, "-c", ZEROS, str(mounted.path / "large")]
        with spawn(victim, stdin=PIPE, stdout=PIPE) as reader:
            assert reader.stdout.readline() == b"open\n"

            def read():
                reader.stdin.write(b"read\n")
                reader.stdin.flush()
                return reader.stdout.readline()

            node.abandon()
            node.kill_keeper()
            wait_until(lambda: read() == b"zeros\n")
            node.start()
            assert node.mounts.adopt() == 0
            assert node.mounts.lost == (mounted.path,)
            with node.mounts.mount(image.spec, read_ahead_kib=64) as again:
                assert read() == b"zeros\n", "what the next test is about: the old pages stay"
                assert tree_digest(again.path) == right
            reader.stdin.close()


@fault_row(
    "the worker of a FUSE mount is killed",
    "EIO for what is not cached until the image is mounted anew, never zeros",
)
def test_a_killed_worker_of_fuse_fails_reads_until_the_image_is_mounted_anew(
    tmp_path, image, right
):
    with running_node(tmp_path / "node", filler=FUSE) as node:
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            before = node.worker_pid()
            node.kill_worker()
            wait_until(lambda: node.worker_pid() not in (None, before))
            read = run(["cat", str(mounted.path / "large")], check=False)
            assert (read.status, read.stdout) == (1, b"")
            assert os.strerror(errno.EIO) in read.stderr.decode()
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            assert tree_digest(mounted.path) == right


def test_a_prefetch_goes_on_in_the_successor(tmp_path, image):
    with (
        running_node(tmp_path / "node", "--slow-at", "fetched:10") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
    ):
        job = node.mounts.prefetch(image.spec.manifest, EverythingPlan())
        pid = node.worker_pid()
        node.kill_worker()
        wait_until(lambda: node.worker_pid() not in (None, pid))
        assert node.mounts.wait(job)["error"] is None
        assert node.mounts.is_local(image.spec)


def test_a_pull_that_nobody_waits_for_goes_on_in_the_successor(tmp_path, image):
    with (
        running_node(tmp_path / "node", "--slow-at", "fetched:10") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
    ):
        node.mounts.prefetch(image.spec.manifest, EverythingPlan())
        node.kill_worker()
        wait_until(lambda: node.mounts.is_local(image.spec))


def test_a_recording_with_a_hole_is_refused(tmp_path, image):
    with (
        running_node(tmp_path / "node") as node,
        node.mounts.mount(image.spec, read_ahead_kib=64),
        node.mounts.mount_recording(image.spec, read_ahead_kib=0) as recording,
    ):
        run(["head", "-c", "8192", str(recording.path / "large")])
        pid = node.worker_pid()
        node.kill_worker()
        wait_until(lambda: node.worker_pid() not in (None, pid))
        run(["cat", str(recording.path / "large")])
        with pytest.raises(HotstartError, match="record again"):
            recording.stop()


@fault_row(
    "power is lost before what was written was synced",
    "the right bytes: what can't be proved is verified or fetched again",
)
def test_no_zeros_after_a_power_loss_that_took_data(tmp_path, image, right):
    """A map that another boot wrote, unsynced, is believed only where the bytes verify."""
    with running_node(tmp_path / "node") as node:
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            run(["cat", str(mounted.path / "large")])
        device_id = image.spec.devices[0].device_id
        assert not node.mounts.is_local(image.spec), "a complete device is synced"
        pretend_power_loss(node.cache.device_path(device_id), node.cache.ready_path(device_id))
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            assert tree_digest(mounted.path) == right


def pretend_power_loss(device, ready):
    """Give the map another boot's name, and take away data that it vouches for."""
    with ready.open("r+b") as file:
        at = file.read(4096).index(current_boot_id())
        file.seek(at)
        file.write(bytes(16))
        file.seek(4096)
        pages = file.read()
    with device.open("r+b") as file:
        for page in range(0, len(pages), 3):
            if pages[page]:
                file.seek(page * 4096)
                file.write(bytes(4096))


def test_a_worker_that_waits_for_its_store_makes_room_for_a_successor_at_once(
    tmp_path, image, monkeypatch
):
    """Readers would wait for the end of its tries before a worker with other credentials came."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with (
        answering(Answer(200, stalls=True)) as (endpoint, requests),
        running_node(tmp_path / "node") as node,
    ):
        node.cache.bootstrap(image.spec.bootstrap, image.store.blobs)
        away = f"s3://bucket?endpoint={endpoint}"
        devices = tuple(replace(device, store_url=away) for device in image.spec.devices)
        mounted = node.mounts.mount(replace(image.spec, devices=devices), read_ahead_kib=64)
        reader = spawn(["cat", str(mounted.path / "large")], stdout=DEVNULL)
        try:
            wait_until(lambda: requests)
            before = node.worker_pid()
            node.guard.restart_worker("fill")
            wait_until(lambda: node.worker_pid() not in (None, before), timeout_s=15)
        finally:
            reader.kill()
            reader.wait()
        mounted.release()
