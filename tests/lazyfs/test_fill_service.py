"""How the fill worker takes up sets: those that it can't serve, those that take long."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hotstart.core.run import run
from hotstart.core.span import PAGE
from hotstart.kernel.keeper_client import HandleSet
from hotstart.store.ready_map import ReadyMap
from hotstart.store.stack import Store
from lazyfs.device_counters import DeviceCounters
from lazyfs.device_handles import KIND, DeviceMeta, device_set_name
from lazyfs.fill_service import FillService, SetUnknown
from lazyfs.fuse_set import FuseSet
from lazyfs.journal import JournalVersionUnknown, create_journal
from lazyfs.pulls import Pulls
from lazyfs.stores import StorePool
from tests.lazyfs.small_device import CHUNK_PAGES, CHUNKS, HeldBlobs, SmallDevice, arrived


class Keeper:
    """Gives one set, once."""

    def __init__(self, held):
        self._held = held

    def get(self, name):
        return self._held


@pytest.fixture
def meta(tmp_path):
    spec = SmallDevice(tmp_path).spec
    return DeviceMeta(spec, "/x.dev", "/x.ready", "/x.dev", recording="r")


def refused_set(meta, tmp_path, fds):
    """Return the service and the set, whose attaching is about to fail."""
    held = HandleSet("recording/r/x", KIND, meta.to_json(), list(fds))
    return FillService(Keeper(held), pulls=Pulls(tmp_path))


def are_closed(fds):
    return not any(os.path.exists(f"/proc/self/fd/{fd}") for fd in fds)


@pytest.mark.parametrize("fuse_target", ["", "/x"])
def test_a_recording_of_a_device_that_is_not_served_is_refused_by_name(meta, tmp_path, fuse_target):
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(1 if fuse_target else 3)]
    value = {**meta.to_json(), "fuse_target": fuse_target}
    service = refused_set(DeviceMeta.from_json(value), tmp_path, fds)
    with pytest.raises(SetUnknown):
        service.attach("recording/r/x", meta.token)
    assert are_closed(fds)
    service.close()


def test_a_set_whose_journal_is_of_another_version_is_closed_once(meta, tmp_path):
    journal = create_journal()
    os.pwrite(journal, b"HSJRNL\xff\xff", 0)
    fds = [os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY), journal]
    service = refused_set(meta, tmp_path, fds)
    own = device_set_name(meta.device.device_id)
    service._sets[own] = meta, SimpleNamespace(device=None)
    with pytest.raises(JournalVersionUnknown):
        service.attach("recording/r/x", meta.token)
    assert are_closed(fds)
    service.close()


def test_a_device_that_is_closed_meanwhile_is_not_told_and_the_others_are(meta, tmp_path):
    service = refused_set(meta, tmp_path, [])
    for name in ("gone", "there"):
        ready = ReadyMap.open(tmp_path / name, meta.device.device_id, meta.device.pages)
        device = SimpleNamespace(
            device_id=name, spec=meta.device, ready=ready, complete=False, counters=DeviceCounters()
        )
        service._sets[name] = replace(meta, recording=""), SimpleNamespace(device=device)
    service._sets["gone"][1].device.ready.close()
    assert list(service.stats()) == ["there"]
    service.close()
    ready.close()


VERIFIED_BYTES = (CHUNKS - 1) * CHUNK_PAGES * PAGE
"""A hole has no chunk to verify it by."""


class Distrusted:
    """A device of which an earlier boot left all, and its set; its table can be held up."""

    def __init__(self, directory, *, seed):
        directory.mkdir()
        self.small = SmallDevice(directory, seed=seed)
        self.blobs = HeldBlobs(self.small.store.blobs)
        self.spec = replace(self.small.spec, store_url=f"mem://{seed}")
        path, ready = directory / "a.dev", directory / "a.ready"
        path.write_bytes(self.small.content)
        with ReadyMap.open(ready, self.spec.device_id, self.spec.pages, boot_id=b"b" * 16) as left:
            left.set(0, self.spec.pages)
        self.meta = DeviceMeta(self.spec, str(path), str(ready), str(path))
        self.name = device_set_name(self.spec.device_id)
        self._path = path

    def handles(self):
        fds = [os.open(self._path, os.O_RDWR), os.eventfd(0), create_journal()]
        return HandleSet(self.name, KIND, self.meta.to_json(), fds)

    def local_bytes(self, service):
        return service.stats()[self.spec.device_id]["bytes_local"]


class ManySets:
    """A keeper that gives each set as often as it is asked."""

    def __init__(self, devices):
        self._devices = {device.name: device for device in devices}
        self.asked = []

    def get(self, name):
        self.asked.append(name)
        return self._devices[name].handles()


def test_a_device_that_is_verified_again_keeps_no_other_waiting_and_is_verified_once(tmp_path):
    slow, quick = (Distrusted(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    slow.blobs.held_blobs = {slow.small.table_digest}
    slow.blobs.gate.clear()
    stores = {device.spec.store_url: device for device in (slow, quick)}
    keeper = ManySets([slow, quick])
    service = FillService(keeper, pulls=Pulls(tmp_path))
    service._stores = StorePool(lambda url: Store(url, stores[url].blobs, None, None))
    service._patient_stores = service._stores
    try:
        with ThreadPoolExecutor() as pool:
            attaching = [pool.submit(service.attach, slow.name, slow.meta.token) for _ in range(3)]
            arrived(slow.blobs, 1)
            service.attach(quick.name, quick.meta.token)
            assert quick.local_bytes(service) == VERIFIED_BYTES
            assert not any(one.done() for one in attaching)
            slow.blobs.gate.set()
            for one in attaching:
                one.result()
        assert keeper.asked.count(slow.name) == 1
        assert slow.local_bytes(service) == VERIFIED_BYTES
    finally:
        slow.blobs.gate.set()
        service.close()


def test_a_set_that_comes_while_the_worker_ends_does_not_keep_it_from_ending(meta, tmp_path):
    service = FillService(ManySets([]), pulls=Pulls(tmp_path))

    class Late(FuseSet):
        def __init__(self):
            pass

        def close(self):
            service._sets["late"] = meta, self

    service._sets["first"] = service._sets["second"] = meta, Late()
    service.close()
    assert service._engine.demand._closed


FAILING_MAIN = """
import threading, time
from lazyfs import worker

def main(argv):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    raise ZeroDivisionError("a bug")

worker.main = main
worker.run_to_end([])
"""


def test_a_worker_that_fails_waits_for_no_thread_of_its_own():
    ended = run([sys.executable, "-c", FAILING_MAIN], check=False, timeout_s=20)
    assert ended.status == 1
    assert b"ZeroDivisionError: a bug" in ended.stderr
