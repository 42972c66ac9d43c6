"""What a restore takes, refuses and inherits, before anything is made."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from hotstart.core.errors import Conflict, Unavailable, UserError
from hotstart.core.phases import Phases
from runtime.container_spec import ContainerSpec, Volume
from runtime.restore import Restorer, RestoreRefused, effective_spec, may_fall_back
from runtime.thaw import check_volumes


def snapshot(**changes):
    config = SimpleNamespace(
        env=("A=1",),
        hostname="frozen",
        ready="tcp:80",
        memory_bytes=64 << 20,
        cpus=1.5,
        stateful=True,
        volumes=("/data",),
    )
    config.__dict__.update(changes)
    return SimpleNamespace(config=config, reference="snap")


def test_probe_limits_environment_and_name_come_from_the_snapshot():
    spec = effective_spec(ContainerSpec(name="web"), snapshot())
    assert (spec.env, spec.hostname, spec.ready) == (("A=1",), "frozen", "tcp:80")
    assert (spec.memory_bytes, spec.cpus) == (64 << 20, 1.5)


def test_probe_and_limits_may_be_given_anew():
    given = ContainerSpec(name="web", ready="tcp:81", memory_bytes=128 << 20, cpus=2.0)
    spec = effective_spec(given, snapshot())
    assert (spec.ready, spec.memory_bytes, spec.cpus) == ("tcp:81", 128 << 20, 2.0)


@pytest.mark.parametrize(
    "change", [{"argv": ("x",)}, {"env": ("B=2",)}, {"workdir": "/x"}, {"user": "u"}]
)
def test_what_a_running_process_cannot_be_given_is_refused(change):
    with pytest.raises(UserError, match="already"):
        effective_spec(replace(ContainerSpec(name="web"), **change), snapshot())


def test_a_missing_volume_and_one_too_many_are_refused():
    given = (Volume("/host", "/data"),)
    check_volumes(ContainerSpec(name="web", volumes=given), snapshot().config)
    with pytest.raises(UserError, match="volumes at /data"):
        check_volumes(ContainerSpec(name="web"), snapshot().config)
    for mode, frozen in ((True, "/data"), (False, "/data:ro")):
        changed = (Volume("/host", "/data", read_only=mode),)
        with pytest.raises(UserError, match=f"volumes at {frozen}"):
            check_volumes(
                ContainerSpec(name="web", volumes=changed), snapshot(volumes=(frozen,)).config
            )
    more = (*given, Volume("/host", "/other"))
    with pytest.raises(UserError, match="no volume at /other"):
        check_volumes(ContainerSpec(name="web", volumes=more), snapshot().config)


def test_only_a_stateless_snapshot_may_be_replaced_by_a_cold_start():
    refused = RestoreRefused("snap", ["other CPU"])
    assert may_fall_back(snapshot(stateful=False), refused)
    assert may_fall_back(snapshot(stateful=False), Unavailable("store away"))
    assert not may_fall_back(snapshot(stateful=True), refused)
    assert not may_fall_back(snapshot(stateful=False), Conflict("port in use"))


@dataclass
class Spec:
    manifest: str


class Images:
    """Mounts by name; ``used`` are those that nobody has given back. ``broken`` ones fail."""

    def __init__(self, broken=()):
        self.used, self._broken = [], broken

    def prepare(self, *specs):
        pass

    def mount(self, spec, *, read_ahead_kib):
        name = spec.manifest
        if name in self._broken:
            raise Unavailable(f"{name} cannot be fetched")
        self.used.append(name)
        return SimpleNamespace(path=name, release=lambda: self.used.remove(name))


class Networks:
    """One network, whose port may be in use."""

    def __init__(self, *, port_in_use):
        self.used, self._port_in_use = 0, port_in_use

    def acquire(self):
        self.used += 1

    def hold(self, network, ports):
        if self._port_in_use:
            raise Conflict("the port is in use")

    def forward(self, network):
        self.forwarded = True

    def release(self, network):
        self.used -= 1


@pytest.mark.parametrize(
    ("broken", "port_in_use"), [((), True), (("own",), False), (("image",), False)]
)
def test_what_fails_beside_a_mount_leaves_no_mount_in_use(broken, port_in_use):
    images, networks = Images(broken), Networks(port_in_use=port_in_use)
    snap = snapshot(read_ahead_kib=0)
    snap.mount_spec, snap.image_spec = lambda: Spec("own"), lambda: Spec("image")
    snap.bundle_plan = lambda: object()
    restorer = Restorer(SimpleNamespace(images=images, networks=networks, prefetcher=None))
    restorer._bundles = SimpleNamespace(begin=lambda *_: None)
    with (
        ThreadPoolExecutor(1) as beside,
        pytest.raises((Conflict, Unavailable)),
        ExitStack() as undo,
    ):
        restorer._prepare(snap, ContainerSpec(name="web"), beside, Phases(), undo)
    assert images.used == []
    assert networks.used == 0
