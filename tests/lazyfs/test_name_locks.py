"""Long steps of one name: no other name waits for them, and two of the same name never overlap."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from hotstart.kernel.keeper_client import HandleSet
from lazyfs.device_handles import KIND, DeviceMeta, device_set_name
from lazyfs.name_locks import NameLocks
from lazyfs.served_devices import FANOTIFY, ServedDevices
from tests.lazyfs.node import wait_until
from tests.lazyfs.small_device import SmallDevice


def test_of_two_steps_of_one_name_the_second_waits_and_other_names_do_not():
    locks, inside, go_on = NameLocks(), [], threading.Event()

    def step(label, name):
        with locks.holding(name):
            inside.append(label)
            assert go_on.wait(20), "nobody let it through"

    with ThreadPoolExecutor() as pool:
        try:
            steps = [pool.submit(step, "first", "a")]
            wait_until(lambda: inside == ["first"])
            steps.append(pool.submit(step, "second", "a"))
            steps.append(pool.submit(step, "other", "b"))
            wait_until(lambda: "other" in inside)
            wait(steps, timeout=0.05)
            assert inside == ["first", "other"]
        finally:
            go_on.set()
        for one in steps:
            one.result()
    assert inside == ["first", "other", "second"]
    assert locks._held == set()


def test_a_step_that_fails_gives_its_lock_back():
    locks = NameLocks()
    with pytest.raises(ZeroDivisionError), locks.holding("a"):
        raise ZeroDivisionError
    with locks.holding("a"), locks.holding("b"):
        assert locks._held == {"a", "b"}


class Guard:
    """Holds every set there is."""

    def names(self, kind):
        return []

    def descriptor_limit(self):
        return 20_000

    def __init__(self, specs):
        self._metas = {
            device_set_name(spec.device_id): DeviceMeta(spec, "", "", "") for spec in specs
        }

    def get(self, name):
        return HandleSet(name, KIND, self._metas[name].to_json())


class Worker:
    """Attaching the first set takes until it is let through."""

    def __init__(self, slow):
        self._slow = slow
        self.begun, self.go_on = threading.Event(), threading.Event()

    def attach(self, name, token):
        if self._slow in name:
            self.begun.set()
            assert self.go_on.wait(20), "nobody let it through"


def test_a_device_that_takes_long_to_attach_keeps_no_other_waiting(tmp_path):
    specs = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        specs.append(SmallDevice(tmp_path / str(seed), seed=seed).spec)
    worker = Worker(specs[0].device_id)
    devices = ServedDevices(None, Guard(specs), worker, FANOTIFY, tmp_path / "fuse")
    devices.adopt(specs)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(devices.claim, specs[0])
        assert worker.begun.wait(20)
        devices.claim(specs[1])
        assert not slow.done()
        worker.go_on.set()
        slow.result()
