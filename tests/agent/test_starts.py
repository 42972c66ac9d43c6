"""Which route a start takes, and what is said when it isn't the one that was hoped for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent import starts
from agent.long_call import LongCall
from agent.starts import Starter, StartTools
from agent.stateless_names import names_for, stateless_name
from agent.weights_volumes import WeightsVolumes
from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError, UserError
from runtime.container_spec import ContainerSpec
from runtime.loaded_snapshot import LoadedSnapshot, MemoryTooSmall

IMAGE = SimpleNamespace(
    reference="app:v1", digest=Digest.of(b"image"), config={"config": {"Cmd": ["/app"]}}
)


class StartedCold(HotstartError):
    """The cold route was taken."""


class Cold:
    def load(self, store, reference, phases):
        return IMAGE

    def start(self, *arguments, **rest):
        raise StartedCold


class Restorer:
    """Must not be asked to restore."""

    def check_host(self, snapshot):
        pass


class Containers:
    """No container; a name that is reserved has come too far for a refused restore."""

    def running(self):
        return []

    def starting(self, record):
        raise StartedCold if record.route == "cold" else AssertionError("a restore has begun")


@pytest.fixture
def starter(monkeypatch):
    """A node whose store has one snapshot, of 64 MiB."""
    config = SimpleNamespace(
        memory_files=(SimpleNamespace(size_bytes=64 << 20),),
        memory_bytes=None,
        cpus=2.0,
        stateful=False,
    )
    monkeypatch.setattr(
        starts,
        "load_snapshot",
        lambda store, name, **_: LoadedSnapshot(name, "file:///s", None, config, None),
    )
    tools = StartTools(
        containers=Containers(),
        cold=Cold(),
        restorer=Restorer,
        open_store=lambda url: SimpleNamespace(url=url),
        trusted=tuple,
        fetched=dict,
        weights=WeightsVolumes(None, None),
    )
    return Starter(tools)


def notices(call):
    call.start(lambda: None)
    return [event for event in call.events() if isinstance(event, str)]


def run_cold(starter, call, **limits):
    spec = ContainerSpec(name="web", **limits)
    with pytest.raises(StartedCold):
        starter.run(
            "file:///s", "app:v1", spec=spec, no_snapshot=False, background_fill=False, call=call
        )


def test_a_run_starts_cold_when_the_snapshot_does_not_fit_its_memory_limit_and_says_so(starter):
    call = LongCall()
    run_cold(starter, call, memory_bytes=32 << 20, cpus=1.0)
    (notice,) = notices(call)
    assert notice.startswith("app:v1: starts cold: the snapshot of app:v1: its processes need 64")


def test_a_run_gets_no_limit_that_it_did_not_ask_for(starter):
    call = LongCall()
    run_cold(starter, call)
    (notice,) = notices(call)
    assert "it was captured with --cpus, and this start asks for no such limit" in notice


def test_a_restore_that_does_not_fit_its_memory_limit_is_refused_before_anything_is_made(starter):
    call = LongCall()
    with pytest.raises(MemoryTooSmall):
        starter.restore(
            "file:///s",
            "snap:v1",
            spec=ContainerSpec(name="web", memory_bytes=32 << 20),
            fallback="default",
            trust_unsigned=False,
            allow_clones=False,
            background_fill=False,
            call=call,
        )
    assert notices(call) == []


def test_a_limited_container_never_takes_the_name_of_an_unlimited_one():
    key, image = Digest.of(b"start"), Digest.of(b"image")
    plain = ContainerSpec(name="web")
    limited = replace(plain, memory_bytes=512 << 20)
    assert stateless_name(image, key, limited) != stateless_name(image, key, plain)
    higher = replace(limited, memory_bytes=1 << 30)
    assert stateless_name(image, key, limited) == stateless_name(image, key, higher)
    assert names_for(image, key, plain) == [stateless_name(image, key, plain)]
    assert names_for(image, key, limited) == [
        stateless_name(image, key, limited),
        stateless_name(image, key, plain),
    ]


def test_a_probe_that_is_none_is_refused_before_a_cold_start_is_thought_of(starter):
    call = LongCall()
    spec = ContainerSpec(name="web", ready="tcp:99999")
    with pytest.raises(UserError, match="not a readiness probe"):
        starter.run(
            "file:///s", "app:v1", spec=spec, no_snapshot=False, background_fill=False, call=call
        )
    assert notices(call) == []
