"""Client and service over a real socket: values, errors and cancellation arrive as they were."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from agent.client import CHANNEL_OPTIONS, AgentClient, Listener, socket_of
from agent.proto.generated import hotstart_pb2_grpc as pb_grpc
from agent.service import Service
from agent.values import ExecSpec
from hotstart.core.errors import Conflict, NotFound, Unavailable, UserError
from hotstart.core.progress import Progress
from runtime.container_spec import ContainerSpec, PortMapping, Volume
from tests.agent.fake_node import FakeNode, view

SPEC = ContainerSpec(
    name="web",
    argv=("", "word"),
    env=("A=b=c",),
    workdir="/srv",
    user="1:2",
    hostname="h",
    ports=(PortMapping(8080, 80, "127.0.0.1"),),
    volumes=(Volume("/a", "/b", True),),
    memory_bytes=64 << 20,
    cpus=1.5,
    ready="tcp:80",
    ready_timeout_s=3.5,
)


class Seen:
    """A listener that keeps everything."""

    def __init__(self):
        self.events = []
        self.notices = []

    def update(self, event):
        self.events.append(event)

    @property
    def listener(self):
        return Listener(self, self.notices.append)


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def ended():
    return threading.Event()


@pytest.fixture
def client(tmp_path, node, ended):
    server = grpc.server(ThreadPoolExecutor(8), options=CHANNEL_OPTIONS)
    pb_grpc.add_AgentServicer_to_server(Service(node, ended.set), server)
    server.add_insecure_port(f"unix:{socket_of(tmp_path)}")
    server.start()
    with AgentClient(tmp_path) as client:
        yield client
    server.stop(None).wait()


def test_everything_a_caller_wants_arrives(client, node):
    client.run("file:///s", "app:v1", spec=SPEC, no_snapshot=True, background_fill=False)
    assert node.asked == [("run", "file:///s", "app:v1", SPEC, True, False)]


def test_what_is_left_out_stays_out(client, node):
    bare = ContainerSpec(name="bare")
    client.run("file:///s", "app:v1", spec=bare)
    assert node.asked == [("run", "file:///s", "app:v1", bare, False, True)]


def test_a_start_reports_events_and_then_its_result(client):
    seen = Seen()
    report = client.run("file:///s", "app:v1", spec=SPEC, listener=seen.listener)
    assert seen.events == [Progress("mount", 1, 2)]
    assert seen.notices == ["a restore could not be had"]
    assert report.container == view("web")
    assert (report.ready_ms, report.phases["mount_ms"], report.marks) == (12.5, 4.0, {"started": 3})
    assert (report.fetched_bytes, report.fallback_reason) == (99, "other CPU")
    assert report.received_s > 0


def test_a_restore_carries_its_rules(client, node):
    client.restore(
        "s3://b", "snap:v1", spec=SPEC, fallback="forbid", trust_unsigned=True, allow_clones=True
    )
    wanted = node.asked[0][3]
    assert node.asked[0][:3] == ("restore", "s3://b", "snap:v1")
    assert (wanted["fallback"], wanted["trust_unsigned"], wanted["allow_clones"]) == (
        "forbid",
        True,
        True,
    )


def test_errors_keep_kind_sentence_and_hint(client):
    client.run("file:///s", "app:v1", spec=SPEC)
    with pytest.raises(Conflict, match="web is taken") as caught:
        client.run("file:///s", "app:v1", spec=SPEC)
    assert caught.value.hint == "choose another name"
    with pytest.raises(NotFound, match="no container none"):
        client.stop("none")
    with pytest.raises(NotFound, match="no container none"):
        list(client.logs("none"))


def test_what_cannot_be_wanted_is_refused_by_the_agent_too(client):
    from agent.proto.generated import hotstart_pb2 as pb

    request = pb.RunRequest(options=pb.ContainerOptions(name="UPPER"))
    with pytest.raises(UserError, match="cannot name a container"):
        client._result(client._stub.Run, request, Seen().listener)


def test_a_cancelled_start_is_undone(client, node):
    call = client._stub.Run(
        client_request("slow:v1"),
    )
    assert node.begun.wait(10)
    call.cancel()
    assert node.undone.wait(10)
    assert node.running == {}


def client_request(reference):
    from agent import convert
    from agent.proto.generated import hotstart_pb2 as pb

    return pb.RunRequest(store_url="s", reference=reference, options=convert.spec_to(SPEC))


def test_exec_passes_three_streams_and_the_status(client, node):
    node.running["web"] = view("web")
    got = {"stdout": b"", "stderr": b""}

    def output(stream, data):
        got[stream] += data

    spec = ExecSpec("web", ("cat", "-"), ("A=b",), "/srv", "1")
    status = client.exec(spec, stdin=[b"some ", b"words"], output=output)
    assert (status, got) == (2, {"stdout": b"SOME WORDS", "stderr": b"begun"})


def test_exec_in_an_unknown_container_is_an_error(client):
    with pytest.raises(NotFound):
        client.exec(ExecSpec("none", ("ls",)), output=lambda *_: None)


def test_life_of_a_container(client, node):
    client.run("file:///s", "app:v1", spec=SPEC)
    assert [found.name for found in client.containers()] == ["web"]
    assert [piece.data for piece in client.logs("web", follow=True)] == [b"one\n", b"two\n"]
    assert client.stop("web", grace_s=0.0).exit_status == 143
    assert node.asked[-1] == ("stop", 0.0)
    assert client.wait("web").state == "stopped"
    client.remove("web")
    assert client.containers() == ()


def test_snapshot_mounts_and_pull_arrive(client, node):
    node.running["web"] = view("web")
    report = client.snapshot(
        "file:///s", "web", "snap:v1", goldens=['{"path":"/"}'], statefulness="stateless"
    )
    assert (report.verdict, report.stateless, report.phases) == ("rehearsed", True, {"dump_ms": 1})
    assert report.stateful_reason == "why"
    assert node.asked[-1][3]["goldens"] == ('{"path":"/"}',)
    mounted = client.mount("file:///s", "app:v1", Path("/mnt"), filler="fuse", read_ahead_kib=64)
    assert (mounted.path, mounted.filler, mounted.bytes_local) == ("/mnt", "fuse", 64)
    assert client.mounts() == tuple(node.mounts())
    client.umount(Path("/mnt"))
    assert node.asked[-1] == ("umount", "/mnt")
    assert client.pull("file:///s", "app:v1").fetched_bytes == 50
    assert client.pull("file:///s", "app:v1").size_bytes == 100
    assert client.pull("file:///s", "app:v1", working_set=True).size_bytes == 10


def test_shutdown_is_answered_before_the_end(client, node, ended):
    node.running["web"] = view("web")
    assert client.status() == node.status()
    assert client.shutdown(everything=False) == 0
    assert ended.wait(10)
    assert client.shutdown(everything=True) == 1


def test_long_messages_arrive_whole(client, node):
    node.stop = lambda *_, **__: (_ for _ in ()).throw(Conflict("x" * 12_000))
    with pytest.raises(Conflict) as caught:
        client.stop("web")
    assert len(str(caught.value)) == 12_000


def test_no_agent_is_unavailable(tmp_path):
    with AgentClient(tmp_path) as client, pytest.raises(Unavailable, match="no answer"):
        client.status(timeout_s=1)


def test_a_root_too_deep_for_a_socket_is_refused(tmp_path):
    with pytest.raises(UserError, match="107 bytes"):
        AgentClient(tmp_path / ("x" * 100))
