"""Workers, the keeper and the agent may die at any instant: no wrong byte, no failed read."""

import os
import random
import signal
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
            time.sleep(chance.uniform(0.0, 0.12))
            done += node.kill_worker()
        return finish(readers), done


def test_twenty_kills_under_readers_leave_no_wrong_byte(tmp_path, image):
    done = 0
    for round_number in range(8):
        root = tmp_path / f"node{round_number}"
        with running_node(root, "--slow-at", "fetched:10") as node:
            complaints, kills = read_under_kills(node, image, 20 - done, round_number)
        assert complaints == []
        done += kills
        if done >= 20:
            break
    assert done >= 20


@pytest.mark.soak
def test_fifty_kills_under_readers_leave_no_wrong_byte(tmp_path, image):
    done = 0
    while done < 50:
        with running_node(tmp_path / f"node{done}", "--slow-at", "fetched:10") as node:
            complaints, kills = read_under_kills(node, image, 50 - done, done)
        assert complaints == []
        done += kills


@pytest.mark.parametrize("point", list(CrashPoint), ids=lambda point: point.value)
def test_a_crash_at_a_named_point_leaves_no_wrong_byte(tmp_path, image, right, point):
    """Each worker dies when it passes the point for the fortieth time, its successors too."""
    with (
        running_node(tmp_path / "node", "--crash-at", f"{point.value}:40") as node,
        node.mounts.mount(image.spec, read_ahead_kib=1024) as mounted,
    ):
        readers = start_readers(mounted.path, image.source)
        assert finish(readers) == []
        assert node.guard.status()["workers"]["fill"]["starts"] > 2
        assert tree_digest(mounted.path) == right


def stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "T"


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
