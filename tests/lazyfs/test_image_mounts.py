"""The contract of mounted images, for both fillers: real mounts, a real worker, every byte."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.core.errors import Conflict, Unavailable
from hotstart.core.run import run
from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.mounts import is_mounted, mounts_at, mounts_below
from lazyfs import image_mounts
from lazyfs.device_handles import KIND
from lazyfs.plans import EverythingPlan, TracePlan
from lazyfs.served_devices import FANOTIFY, FUSE, DeviceDisagreed
from tests.lazyfs.node import Image, make_tree, read_status, running_node, tree_digest, wait_until

pytestmark = [pytest.mark.kernel]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    return Image(make_tree(root / "tree", megabytes=12), root / "store")


@pytest.fixture(params=[FANOTIFY, FUSE])
def node(tmp_path, request):
    with running_node(tmp_path / "node", filler=request.param) as node:
        yield node


def device_stats(node, image):
    return node.worker.stats()[image.spec.devices[0].device_id]


def test_a_mounted_image_reads_as_its_source(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        assert tree_digest(mounted.path) == tree_digest(image.source)
        stats = device_stats(node, image)
        assert stats["misses"] > 0
        assert stats["errors"] == 0


def test_the_hosts_users_get_no_program_of_an_image(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        (entry,) = mounts_at(mounted.path)
        assert {"ro", "nosuid", "nodev"} <= set(entry.options.split(","))
        assert mounted.path.parent.stat().st_mode & 0o077 == 0


def test_nothing_is_fetched_that_is_not_read(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=0) as mounted:
        assert device_stats(node, image)["fetched_bytes"] == 0
        run(["head", "-c", "4096", str(mounted.path / "large")])
        assert 0 < device_stats(node, image)["fetched_bytes"] < 2 << 20


READ_MAPPED = """
import mmap, os, random, sys
big, source = (os.open(path, os.O_RDONLY) for path in sys.argv[1:3])
mapped = mmap.mmap(big, 0, prot=mmap.PROT_READ)
random.seed(5)
pages = len(mapped) // 4096
sys.exit(any(mapped[p * 4096:p * 4096 + 4096] != os.pread(source, 4096, p * 4096)
             for p in (random.randrange(pages) for _ in range(400))))
"""


def test_mapped_pages_are_the_sources(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=16) as mounted:
        argv = [
            "python3",
            "-c",
            READ_MAPPED,
            str(mounted.path / "large"),
            str(image.source / "large"),
        ]
        assert run(argv, check=False).status == 0


def test_two_users_share_one_mount_and_the_last_unmounts(node, image):
    first = node.mounts.mount(image.spec, read_ahead_kib=64)
    second = node.mounts.mount(image.spec, read_ahead_kib=64)
    assert first.path == second.path
    first.release()
    first.release()
    assert is_mounted(second.path)
    second.release()
    assert not mounts_below(node.root)
    assert node.guard.names("fill") == []
    assert node.worker.stats() == {}


def test_an_image_in_use_is_not_unmounted(node, image):
    mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
    assert not node.mounts.unmount(image.spec.manifest)
    with pytest.raises(Conflict):
        node.mounts.unmount_all()
    assert is_mounted(mounted.path)
    mounted.release()


def test_a_mount_with_open_files_keeps_its_handles(node, image):
    """A lazy unmount would let whoever still reads see zeros."""
    mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
    held = os.open(mounted.path / "large", os.O_PATH)
    try:
        mounted.release()
        assert is_mounted(mounted.path)
        assert node.guard.names("fill") != []
        with pytest.raises(Conflict):
            node.mounts.unmount_all()
        assert node.guard.names("fill") != []
    finally:
        os.close(held)
    node.mounts.unmount_all()
    assert node.guard.names("fill") == []


def test_everything_prefetched_makes_later_reads_local(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        job = node.mounts.prefetch(image.spec.manifest, EverythingPlan())
        assert node.mounts.wait(job)["error"] is None
        assert node.mounts.is_local(image.spec)
        before = device_stats(node, image)
        assert before["bytes_local"] == before["bytes_total"]
        wait_until(lambda: device_stats(node, image)["complete"])
        assert tree_digest(mounted.path) == tree_digest(image.source)
        after = device_stats(node, image)
        assert after["requests"] == before["requests"]
        if node.mounts.filler == FANOTIFY:
            assert after["faults"] == before["faults"], "a complete device has lost its mark"


def test_what_is_local_stays_local_after_unmounting(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64):
        node.mounts.wait(node.mounts.prefetch(image.spec.manifest, EverythingPlan()))
    shutil.move(image.store_dir, f"{image.store_dir}.away")
    try:
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            assert tree_digest(mounted.path) == tree_digest(image.source)
    finally:
        shutil.move(f"{image.store_dir}.away", image.store_dir)


def test_a_recording_notes_what_is_touched_and_prefetch_follows_it(node, image, tmp_path):
    with node.mounts.mount(image.spec, read_ahead_kib=0, keep_marks=True) as mounted:
        node.mounts.record_start(image.spec.manifest)
        run(["head", "-c", "40960", str(mounted.path / "large")])
        trace = node.mounts.record_stop(image.spec.manifest)
    assert trace.device_ids == tuple(device.device_id for device in image.spec.devices)
    # FUSE reads ahead on its own below EROFS: it notes more, never less.
    assert 10 <= trace.pages <= (40 if node.mounts.filler == FANOTIFY else 600)
    with (
        running_node(tmp_path / "other") as other,
        other.mounts.mount(image.spec, read_ahead_kib=0) as mounted,
    ):
        other.mounts.wait(other.mounts.prefetch(image.spec.manifest, TracePlan(trace)))
        before = device_stats(other, image)
        run(["head", "-c", "40960", str(mounted.path / "large")])
        assert device_stats(other, image)["misses"] == before["misses"] == 0


def test_an_exact_recording_is_not_disturbed_by_other_readers(node, image):
    with (
        node.mounts.mount(image.spec, read_ahead_kib=64) as mounted,
        node.mounts.mount_recording(image.spec, read_ahead_kib=0) as recording,
    ):
        run(["cat", str(mounted.path / "large")])
        run(["head", "-c", "8192", str(recording.path / "large")])
        trace = recording.stop()
        assert 2 <= trace.pages <= 4
    assert mounts_below(node.root) == []


def test_an_exact_recording_sees_what_is_local_and_cached(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        node.mounts.wait(node.mounts.prefetch(image.spec.manifest, EverythingPlan()))
        run(["cat", str(mounted.path / "large")])
        with node.mounts.mount_recording(image.spec, read_ahead_kib=0) as recording:
            run(["head", "-c", "8192", str(recording.path / "large")])
            assert 2 <= recording.stop().pages <= 4


def test_a_missing_pack_is_eio_and_a_later_read_succeeds(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
        packs = [pack.digest.hex for pack in image.manifest.devices[0].packs]
        blobs = image.store_dir / "blobs" / "sha256"
        away = image.store_dir / "away"
        away.mkdir()
        for pack in packs:
            os.rename(blobs / pack, away / pack)
        try:
            assert read_status(mounted.path / "large") != 0
            assert device_stats(node, image)["errors"] > 0
        finally:
            for pack in packs:
                os.rename(away / pack, blobs / pack)
            away.rmdir()
        assert tree_digest(mounted.path) == tree_digest(image.source)


def test_a_flipped_byte_in_a_pack_is_eio_never_data(node, image):
    pack = image.store_dir / "blobs" / "sha256" / image.manifest.devices[0].packs[0].digest.hex
    good = pack.read_bytes()
    pack.chmod(0o600)
    bad = bytearray(good)
    for position in range(0, len(bad), 4096):
        bad[position] ^= 1
    pack.write_bytes(bad)
    try:
        with node.mounts.mount(image.spec, read_ahead_kib=64) as mounted:
            assert read_status(mounted.path / "large") != 0
            stats = device_stats(node, image)
            assert stats["mismatches"] > 0
            assert stats["quarantined"] > 0
            pack.write_bytes(good)
            # What was fetched before may come into quarantine after it was lifted.
            wait_until(
                lambda: (
                    node.worker.lift_quarantine(),
                    tree_digest(mounted.path) == tree_digest(image.source),
                )[1]
            )
    finally:
        pack.write_bytes(good)


def test_a_failed_mount_leaves_nothing(node, image, tmp_path):
    source = make_tree(tmp_path / "tree", megabytes=1, seed=3)
    broken = Image(source, tmp_path / "store")
    bootstrap = tmp_path / "store" / "blobs" / "sha256" / broken.manifest.bootstrap.digest.hex
    bootstrap.chmod(0o600)
    bootstrap.write_bytes(b"x" * bootstrap.stat().st_size)
    with pytest.raises(Exception, match="digest is"):
        node.mounts.mount(broken.spec, read_ahead_kib=64)
    assert mounts_below(node.root) == []
    assert node.guard.names("fill") == node.guard.names("mount") == []
    assert list((node.root / "cache" / "bootstraps").iterdir()) == []


def test_read_ahead_is_set_on_the_mount(node, image):
    with node.mounts.mount(image.spec, read_ahead_kib=0) as mounted:
        run(["head", "-c", "4096", str(mounted.path / "large")])
        assert device_stats(node, image)["faults"] == 1


def fail(*_, **__):
    raise OSError(5, "no such bdi")


def test_a_read_ahead_that_cannot_be_set_leaves_no_user_behind(node, image, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(image_mounts, "set_read_ahead", fail)
        with pytest.raises(OSError, match="no such bdi"):
            node.mounts.mount(image.spec, read_ahead_kib=64)
        assert mounts_below(node.root) == []
    first = node.mounts.mount(image.spec, read_ahead_kib=64)
    with monkeypatch.context() as patched:
        patched.setattr(image_mounts, "set_read_ahead", fail)
        with pytest.raises(OSError, match="no such bdi"):
            node.mounts.mount(image.spec, read_ahead_kib=64)
    first.release()
    assert mounts_below(node.root) == []


def test_what_cannot_be_dropped_at_the_keeper_keeps_no_device_served(node, image, monkeypatch):
    mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
    drop = node.guard.drop

    def drop_devices_only(name):
        if name.startswith("mount/"):
            raise Unavailable("no keeper answers")
        drop(name)

    with monkeypatch.context() as patched:
        patched.setattr(node.guard, "drop", drop_devices_only)
        mounted.release()  # which unmounts it: idle mounts are none of the releaser's business
    assert mounts_below(node.root) == []
    assert node.guard.names("fill") == []
    with node.mounts.mount(image.spec, read_ahead_kib=64) as again:
        assert tree_digest(again.path) == tree_digest(image.source)


def test_everything_is_not_unmounted_under_a_mount_that_is_being_made(node, image, monkeypatch):
    made, go_on = threading.Event(), threading.Event()

    def mount_slowly(*words, **options):
        made.set()
        assert go_on.wait(20)
        return mount_erofs(*words, **options)

    monkeypatch.setattr(image_mounts, "mount_erofs", mount_slowly)
    node.mounts.prepare(image.spec)
    with ThreadPoolExecutor() as pool:
        mounting = pool.submit(node.mounts.mount, image.spec, read_ahead_kib=64)
        assert made.wait(20)
        ending = pool.submit(node.mounts.unmount_all)
        wait([ending], timeout=0.2)
        go_on.set()
        with mounting.result() as mounted:
            with pytest.raises(Conflict):
                ending.result()
            assert tree_digest(mounted.path) == tree_digest(image.source)


def test_devices_are_made_ready_for_all_images_or_for_none(tmp_path, image):
    """Or the first could never be evicted: nobody would mount it."""
    with running_node(tmp_path / "node") as node:
        (device,) = image.spec.devices
        other = replace(image.spec, manifest="ab" * 32, devices=(replace(device, size_bytes=4096),))
        with pytest.raises(DeviceDisagreed):
            node.mounts.prepare(image.spec, other)
        assert node.mounts._prepared == {}
        assert node.guard.names(KIND) == []


def test_what_others_have_prepared_too_stays_when_somebody_gives_up(tmp_path, image, monkeypatch):
    """The prefetch of the other is on its way into these devices."""
    with running_node(tmp_path / "node") as node:
        (device,) = image.spec.devices
        other = replace(image.spec, manifest="ab" * 32, devices=(replace(device, size_bytes=4096),))
        claim = node.mounts._devices.claim

        def claim_after_another_prepared(spec):
            if spec is other.devices[0]:
                node.mounts.prepare(image.spec)
            claim(spec)

        with monkeypatch.context() as patched:
            patched.setattr(node.mounts._devices, "claim", claim_after_another_prepared)
            with pytest.raises(DeviceDisagreed):
                node.mounts.prepare(image.spec, other)
        assert list(node.worker.stats()) == [device.device_id]
        node.mounts.prepare(image.spec)
        with monkeypatch.context() as patched:
            patched.setattr(image_mounts, "mount_erofs", fail)
            with pytest.raises(OSError, match="no such bdi"):
                node.mounts.mount(image.spec, read_ahead_kib=64)
        assert list(node.worker.stats()) == [device.device_id]
        with node.mounts.mount(image.spec, read_ahead_kib=64):
            assert node.mounts._prepared == {}
        assert node.guard.names(KIND) == []


def read_aheads(mounted):
    return {
        int(Path(f"/sys/class/bdi/{name}/read_ahead_kb").read_text())
        for name in mounted._entry.mount.bdis
    }


def test_the_latest_use_of_a_mount_says_how_far_it_reads_ahead_until_it_ends(tmp_path, image):
    with (
        running_node(tmp_path / "node") as node,
        node.mounts.mount(image.spec, read_ahead_kib=512) as first,
    ):
        with node.mounts.mount(image.spec, read_ahead_kib=32):
            assert read_aheads(first) == {32}
        assert read_aheads(first) == {512}


def test_of_two_uses_that_read_ahead_alike_the_one_that_ends_is_taken_away(tmp_path, image):
    with running_node(tmp_path / "node") as node:
        first, second, third = (
            node.mounts.mount(image.spec, read_ahead_kib=kib) for kib in (512, 32, 512)
        )
        third.release()
        assert read_aheads(first) == {32}
        first.release()
        assert read_aheads(second) == {32}
        second.release()


def test_a_mount_that_somebody_has_undone_by_hand_is_let_go_all_the_same(node, image):
    mounted = node.mounts.mount(image.spec, read_ahead_kib=64)
    run(["umount", str(mounted.path)])
    mounted.release()
    assert node.guard.names("fill") == node.guard.names("mount") == []
    assert node.mounts.stats() == []


def test_a_sequential_reader_is_run_ahead_of_and_what_it_used_is_told(node, image):
    """Of the large file; most of what it asks for has been brought before it asks."""
    with node.mounts.mount(image.spec, read_ahead_kib=128) as mounted:
        with (mounted.path / "large").open("rb", buffering=0) as file:
            while file.read(256 << 10):
                time.sleep(0.02)  # a reader that does something with what it reads
        stats = device_stats(node, image)
        assert stats["prefetch_used_bytes"] > (mounted.path / "large").stat().st_size // 2
        assert stats["demand_requests"] < stats["faults"] / 2  # most of them found it there
        assert stats["prefetched_bytes"] == (
            stats["prefetch_used_bytes"] + stats["prefetch_unused_bytes"]
        )
