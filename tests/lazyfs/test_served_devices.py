"""Claims on devices: what a worker was not told of one claim does no harm to the next."""

import os
from dataclasses import replace

import pytest

from hotstart.core.errors import IntegrityError
from hotstart.core.run import run
from hotstart.core.span import PAGE
from hotstart.kernel.keeper_client import HandleSet
from lazyfs.device_handles import KIND, DeviceMeta
from lazyfs.fill_client import FillWorkerGone
from lazyfs.fill_service import FillService, SetReplaced
from lazyfs.pulls import Pulls
from lazyfs.served_devices import FANOTIFY, ServedDevices
from tests.lazyfs.node import Image, make_tree, running_node
from tests.lazyfs.small_device import SmallDevice
from tests.lazyfs.test_fill_service import Distrusted


class Guard:
    """Holds sets as the keeper does."""

    def __init__(self):
        self.sets = {}

    def get(self, name):
        return self.sets.get(name)

    def names(self, kind):
        return [name for name, held in self.sets.items() if held.kind == kind]

    def descriptor_limit(self):
        return 20_000

    def put(self, held):
        self.sets[held.name] = held

    def drop(self, name):
        self.sets.pop(name)


class Worker:
    """Serves what it is told; can be away when it is to be told of an end."""

    def __init__(self):
        self.attached, self.detached, self.away = [], [], False

    def attach(self, name, token):
        self.attached.append(token)

    def detach(self, name, token):
        if self.away:
            raise FillWorkerGone("it does not answer")
        self.detached.append(token)


@pytest.fixture
def spec(tmp_path):
    return SmallDevice(tmp_path).spec


def plain_devices(tmp_path, monkeypatch):
    """Devices whose sets are made without a kernel."""
    worker, made = Worker(), iter("abcdef")
    devices = ServedDevices(None, Guard(), worker, FANOTIFY, tmp_path / "fuse")

    def open_plain(spec):
        meta = DeviceMeta(spec, "/x.dev", "/x.ready", "/x.dev", token=next(made))
        return HandleSet(f"device/{spec.device_id}", KIND, meta.to_json())

    monkeypatch.setattr(devices, "_open", open_plain)
    return devices, worker


def test_a_device_whose_end_could_not_be_told_is_let_go_before_it_is_opened_again(
    tmp_path, spec, monkeypatch
):
    devices, worker = plain_devices(tmp_path, monkeypatch)
    devices.claim(spec)
    devices.claim(spec)
    worker.away = True
    devices.release(spec.device_id)
    with pytest.raises(FillWorkerGone):
        devices.release(spec.device_id)
    worker.away = False
    devices.claim(spec)
    devices.release(spec.device_id)
    assert worker.attached == ["a", "a", "b"]
    assert worker.detached == ["a", "b"]


def test_a_device_whose_end_cannot_be_told_yet_is_not_claimed(tmp_path, spec, monkeypatch):
    devices, worker = plain_devices(tmp_path, monkeypatch)
    devices.claim(spec)
    worker.away = True
    for step in (lambda: devices.release(spec.device_id), lambda: devices.claim(spec)):
        with pytest.raises(FillWorkerGone):
            step()
    assert worker.attached == ["a"]


@pytest.mark.parametrize("field", ["size_bytes", "head_length", "head_digest", "table"])
def test_a_manifest_that_says_something_else_of_a_served_device_is_refused(
    tmp_path, spec, monkeypatch, field
):
    other = {
        "size_bytes": spec.size_bytes - PAGE,
        "head_length": spec.head_length - 1,
        "head_digest": spec.table.digest,
        "table": replace(spec.table, size=spec.table.size + 1),
    }
    devices, worker = plain_devices(tmp_path, monkeypatch)
    devices.claim(spec)
    with pytest.raises(IntegrityError, match="another manifest"):
        devices.claim(replace(spec, **{field: other[field]}))
    devices.claim(replace(spec, store_url="mem://elsewhere"))
    devices.release(spec.device_id)
    devices.release(spec.device_id)
    assert worker.detached == ["a"]


class Keeper:
    def __init__(self, held):
        self.held = held

    def get(self, name):
        return HandleSet(name, KIND, self.held.meta, [os.dup(fd) for fd in self.held.fds])


@pytest.fixture
def served(tmp_path):
    """Give a service, a set that it served, and the one of the same name that it serves now."""
    device = Distrusted(tmp_path / "1", seed=1)
    first, second = device.handles(), device.handles()
    second.meta = {**first.meta, "token": "another"}
    keeper = Keeper(first)
    service = FillService(keeper, pulls=Pulls(tmp_path))
    service.attach(first.name, first.meta["token"])
    service.detach(first.name, first.meta["token"])
    keeper.held = second
    service.attach(second.name, "another")
    yield service, first, second
    service.close()
    first.close()
    second.close()


def tokens(service):
    return [meta.token for meta, _ in service._sets.values()]


def test_an_end_that_is_told_late_does_not_end_the_next_set(served):
    service, first, second = served
    service.detach(first.name, first.meta["token"])
    assert tokens(service) == ["another"]
    service.detach(second.name, "another")
    assert tokens(service) == []


def test_a_set_that_is_asked_for_late_is_refused(served):
    service, first, second = served
    with pytest.raises(SetReplaced):
        service.attach(first.name, first.meta["token"])
    assert tokens(service) == ["another"]
    service.detach(second.name, "another")
    with pytest.raises(SetReplaced):
        service.attach(first.name, first.meta["token"])
    assert tokens(service) == []


@pytest.mark.kernel
def test_a_device_whose_end_the_worker_was_not_told_is_served_again(tmp_path, monkeypatch):
    image = Image(make_tree(tmp_path / "tree", megabytes=2), tmp_path / "store")

    def away(*_):
        raise FillWorkerGone("it does not answer")

    with running_node(tmp_path / "node") as node:
        with monkeypatch.context() as patched:
            patched.setattr(node.worker, "detach", away)
            node.mounts.mount(image.spec, read_ahead_kib=16).release()
        with node.mounts.mount(image.spec, read_ahead_kib=16) as mounted:
            argv = ["cmp", str(mounted.path / "large"), str(image.source / "large")]
            assert run(argv, check=False, timeout_s=20).status == 0
        assert node.worker.stats() == {}
