"""Which route a start takes, and what is said when it isn't the one that was hoped for."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent import starts
from agent.container_errors import NameTaken, StoppedAtStart
from agent.failed_reads import FailedReads
from agent.long_call import LongCall
from agent.starts import Starter, StartTools
from agent.stateless_names import names_for, start_key, stateless_name
from agent.weights_volumes import WeightsVolumes
from hotstart.core.digest import Digest
from hotstart.core.errors import (
    HotstartError,
    IntegrityError,
    NotFound,
    Unavailable,
    Unsupported,
    UserError,
)
from runtime.container_spec import ContainerSpec
from runtime.loaded_snapshot import LoadedSnapshot, MemoryTooSmall

FILES = SimpleNamespace(devices=())
IMAGE = SimpleNamespace(
    reference="app:v1",
    digest=Digest.of(b"image"),
    config={"config": {"Cmd": ["/app"]}},
    mount_spec=lambda: FILES,
)


def manifest_of(digest):
    """A snapshot's manifest, of IMAGE, with no files at all."""
    target = SimpleNamespace(digest=digest)
    files = SimpleNamespace(descriptor=lambda: target, bootstrap=None, devices=())
    return SimpleNamespace(
        **vars(files), subject=SimpleNamespace(digest=IMAGE.digest), image=lambda: files
    )


class StartedCold(HotstartError):
    """The cold route was taken."""


class Cold:
    def load(self, store, reference, phases):
        return IMAGE

    def start(self, *arguments, **rest):
        raise StartedCold


class Restorer:
    """Restores fail with ``error``; without one none may begin."""

    def __init__(self, error=None):
        self._error = error

    def check_host(self, snapshot):
        pass

    def restore(self, *arguments, **rest):
        raise self._error


class Containers:
    """No container; a name that is reserved has come too far for a refused restore."""

    def refuse_clones(self, digest, reference):
        pass

    def starting(self, record, *, alone=False):
        raise StartedCold if record.route == "cold" else AssertionError("a restore has begun")


class Beginning(Containers):
    """Lets every start begin, and notes its route."""

    def __init__(self):
        self.routes = []

    @contextmanager
    def starting(self, record, *, alone=False):
        self.routes.append(record.route)
        yield SimpleNamespace(directory=None, kill=lambda: None, check=lambda: None)


@pytest.fixture
def config():
    """What the one snapshot of the store says of itself: 64 MiB, stateless, of the plain start."""
    return SimpleNamespace(
        image_reference="app:v1",
        argv=("/app",),
        stop_signal="SIGTERM",
        env=(),
        workdir="/",
        user="0:0",
        hostname="web",
        ready=None,
        memory_files=(SimpleNamespace(size_bytes=64 << 20),),
        memory_bytes=None,
        cpus=2.0,
        stateful=False,
        start_key=start_key(IMAGE, ContainerSpec(name="web")).hex,
    )


@pytest.fixture
def manifest():
    """The manifest of that snapshot."""
    return manifest_of(Digest.of(b"snapshot"))


@pytest.fixture
def starter(monkeypatch, config, manifest):
    """A node whose store has one snapshot."""
    monkeypatch.setattr(
        starts,
        "load_snapshot",
        lambda store, name, **_: LoadedSnapshot(name, "file:///s", manifest, config, None),
    )
    monkeypatch.setattr(starts, "image_of", lambda *_: IMAGE)
    return Starter(tools_of(Containers(), Restorer()))


def tools_of(containers, restorer):
    return StartTools(
        containers=containers,
        cold=Cold(),
        restorer=lambda: restorer,
        open_store=lambda url, tell: SimpleNamespace(url=url),
        trusted=tuple,
        fetched=dict,
        weights=WeightsVolumes(None, None),
        reads=FailedReads(dict),
    )


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


def run(starter, call, **spec):
    starter.run(
        "file:///s",
        "app:v1",
        spec=ContainerSpec(name="web", **spec),
        no_snapshot=False,
        background_fill=False,
        call=call,
    )


def test_a_run_restores_the_stateless_snapshot_of_its_image_started_its_way(starter):
    with pytest.raises(AssertionError, match="a restore has begun"):
        run(starter, LongCall(), cpus=1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stateful": True}, "is stateful"),
        ({"start_key": "ab" * 32}, "another command"),
        ({"start_key": ""}, "take it again"),
        ({"subject": Digest.of(b"other")}, "another image"),
    ],
)
def test_a_run_starts_cold_if_the_reserved_name_leads_to_a_snapshot_of_something_else(
    starter, config, manifest, change, reason
):
    """Whoever may write references can move a name to any snapshot that was ever signed."""
    manifest.subject.digest = change.pop("subject", IMAGE.digest)
    vars(config).update(change)
    call = LongCall()
    with pytest.raises(StartedCold):
        run(starter, call, cpus=1.0)
    (notice,) = notices(call)
    assert notice.startswith("app:v1: starts cold: the snapshot of app:v1: ")
    assert reason in notice


def test_a_run_started_otherwise_never_gets_the_plain_starts_snapshot(starter):
    call = LongCall()
    with pytest.raises(StartedCold):
        run(starter, call, cpus=1.0, env=("A=1",))
    assert "another command, environment" in notices(call)[0]


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


class RestoreTaken(Containers):
    """Keeps the record of a restore; ``error`` is what its name is refused with."""

    def __init__(self, error):
        self.error = error

    def starting(self, record, *, alone=False):
        assert record.route == "restore", "a cold start took the place of the restore"
        self.record = record
        raise self.error


def restore_with(starter, containers, monkeypatch):
    tools = replace(starter._tools, containers=containers)
    config = SimpleNamespace(
        memory_files=(),
        memory_bytes=None,
        stateful=False,
        image_reference="app:v1",
        argv=("/app",),
        stop_signal="SIGINT",
    )
    manifest = manifest_of(IMAGE.digest)
    monkeypatch.setattr(
        starts,
        "load_snapshot",
        lambda store, name, **_: LoadedSnapshot(name, "file:///s", manifest, config, None),
    )
    call = LongCall()
    Starter(tools).restore(
        "file:///s",
        "snap:v1",
        spec=ContainerSpec(name="web"),
        fallback="default",
        trust_unsigned=False,
        allow_clones=True,
        background_fill=False,
        call=call,
    )


def test_a_restored_container_is_ended_by_its_images_stop_signal(starter, monkeypatch):
    containers = RestoreTaken(UserError("enough"))
    with pytest.raises(UserError, match="enough"):
        restore_with(starter, containers, monkeypatch)
    assert containers.record.stop_signal == "SIGINT"


def test_a_restore_whose_name_is_taken_thinks_of_no_cold_start(starter, monkeypatch):
    with pytest.raises(NameTaken):
        restore_with(starter, RestoreTaken(NameTaken("web")), monkeypatch)


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


FAILURES = [
    Unavailable("the store is away"),
    IntegrityError("a chunk is wrong"),
    Unsupported("no userfaultfd"),
    NotFound("the image is gone"),
    HotstartError("CRIU gave up"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("fallback", ["default", "forbid"])
def test_a_stateful_snapshot_whose_restore_fails_is_never_started_cold(
    starter, config, monkeypatch, error, fallback
):
    """An empty start in place of what the frozen process knew would look like a success."""
    config.stateful = True
    monkeypatch.setattr(starts, "require_image", lambda *_: None)
    containers, call = Beginning(), LongCall()
    with pytest.raises(type(error)) as raised:
        restore(Starter(tools_of(containers, Restorer(error))), call, fallback)
    assert raised.value is error
    assert containers.routes == ["restore"]
    assert notices(call) == []


def test_a_stateless_snapshot_whose_restore_fails_is_started_cold_and_that_is_said(starter):
    containers, call = Beginning(), LongCall()
    with pytest.raises(StartedCold):
        restore(Starter(tools_of(containers, Restorer(FAILURES[0]))), call, "default")
    assert containers.routes == ["restore", "cold"]
    assert notices(call) == ["snap:v1: starts cold: the store is away"]


def test_no_fallback_can_be_asked_for_with_a_stateful_snapshot(starter, config):
    config.stateful = True
    containers = Beginning()
    with pytest.raises(UserError, match="is stateful"):
        restore(Starter(tools_of(containers, Restorer())), LongCall(), "allow")
    assert containers.routes == []


def test_a_start_that_is_stopped_is_interrupted_whatever_it_waits_for(starter, monkeypatch):
    """A cold start calls ``phases.check`` while it downloads."""

    class Stopped(Beginning):
        @contextmanager
        def starting(self, record):
            def check():
                raise StoppedAtStart("web")

            yield SimpleNamespace(directory=None, kill=lambda: None, check=check)

    def start(self, image, spec, directory, phases, **rest):
        phases.check()
        raise AssertionError("it would wait to the end")

    monkeypatch.setattr(Cold, "start", start)
    with pytest.raises(StoppedAtStart):
        run(Starter(tools_of(Stopped(), Restorer())), LongCall())


def restore(starter, call, fallback):
    starter.restore(
        "file:///s",
        "snap:v1",
        spec=ContainerSpec(name="web"),
        fallback=fallback,
        trust_unsigned=False,
        allow_clones=False,
        background_fill=False,
        call=call,
    )
