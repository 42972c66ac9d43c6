"""Cold starts of images built for the purpose, through real mounts; what failed ones leave."""

import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hotstart.core.errors import Unavailable
from hotstart.core.phases import Phases
from hotstart.kernel.cgroup import Group
from hotstart.kernel.mounts import mounts_below
from hotstart.store.blob_store import StoreReadOnly
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store
from hotstart.store.trace import Trace, TraceSpan
from image_builder.build import build
from image_builder.options import BuildOptions
from lazyfs.plans import EverythingPlan, TracePlan
from runtime.cold_start import ColdStarter, ColdStartTools, Route
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec, PortMapping
from runtime.containers import stop, tear_down, wait
from runtime.links import root_id
from runtime.logs import last_lines
from runtime.network_registry import PortInUse
from runtime.oci_spec import ImageWithoutCommand
from runtime.readiness import NotReady
from runtime.runc import ProgramNotFound, Programs, Runc
from runtime.traces import find_trace
from tests.fakes.local_images import LocalImages, StoreFill
from tests.runtime.small_container import make_rootfs

pytestmark = pytest.mark.kernel

_SERVE = ("busybox", "httpd", "-f", "-p", "8000", "-h", "/site")


class RecordedImages(LocalImages):
    """Local images whose mounts can be recorded, as far as a start can tell."""

    def __init__(self, root, fill):
        super().__init__(root, fill)
        self.steps = []
        self.fail_fetch = False
        self.touched = TraceSpan(0, 0, 0, 1)

    def mount(self, spec, *, read_ahead_kib, keep_marks=False):
        self.steps.append("mount with marks" if keep_marks else "mount")
        self.devices = tuple(device.device_id for device in spec.devices)
        return super().mount(spec, read_ahead_kib=read_ahead_kib)

    def wait(self, job, check=None):
        self.steps.append("wait")
        check()
        if self.fail_fetch:
            raise Unavailable("the store does not answer")

    def record_start(self, name):
        self.steps.append("record")

    def record_stop(self, name):
        self.steps.append("stop recording")
        return Trace(self.devices, (self.touched,))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    tree = make_rootfs(tmp_path_factory.mktemp("source"))
    (tree / "site" / "index.html").write_text("served\n")
    return tree


@pytest.fixture
def node(source, tmp_path, pool, container_root):
    store = open_store(f"file://{tmp_path}/store")
    build(f"{source}", store, reference="small:1", options=BuildOptions(command=_SERVE))
    images = RecordedImages(tmp_path / "images", StoreFill(store))
    parent = Group.named(f"/hotstart-{root_id(container_root)}")
    programs = Programs.find()
    starter = ColdStarter(ColdStartTools(programs, images, images, images, pool, parent))

    def directory(name):
        made = ContainerDirectory.of(container_root, name)
        made.create()
        return made

    @contextmanager
    def start(save_in=store, **fields):
        spec = ContainerSpec(**{"name": "one", "ready": "http://localhost:8000/", **fields})
        place, phases = directory(spec.name), Phases()
        image = starter.load(store, "small:1", phases)
        started = starter.start(image, spec, place, phases, store=save_in)
        runc = Runc(programs, place)
        try:
            yield SimpleNamespace(started=started, phases=phases, directory=place, runc=runc)
        finally:
            stop(place, parent.child(spec.name), grace_s=0)
            tear_down(place, runc, parent.child(spec.name))
            started.mount.release()
            pool.release(started.network)
            place.remove()

    return SimpleNamespace(
        start=start, starter=starter, store=store, images=images, directory=directory, parent=parent
    )


def _get(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: peer.recv(4096), b""))


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_ready_container_answers_on_its_published_port(node):
    port = _free_port()
    with node.start(ports=(PortMapping(port, 8000),)) as one:
        assert _get(port).endswith(b"served\n")
        report = one.phases.report()
    named = ("manifest", "network", "mount", "pull", "rootfs", "bundle", "create", "start", "ready")
    assert {f"{name}_ms" for name in named} <= set(report)
    assert one.phases.marks().keys() == {"started", "ready"}


def test_unknown_image_is_pulled_whole_and_recorded_once(node):
    with node.start() as one:
        assert one.started.route is Route.PULLED
        assert node.images.steps == [
            "mount with marks", "wait", "record", "stop recording"
        ]  # fmt: skip
        assert node.images.prefetched == [EverythingPlan()]
        trace = find_trace(node.store, one.started.image)
        assert trace is not None
    with node.start() as one:
        assert one.started.route is Route.LOCAL
    assert node.images.steps[4:] == ["mount"]


def test_traced_image_is_fetched_along_its_trace_and_not_waited_for(node):
    with node.start() as one:
        trace = find_trace(node.store, one.started.image)
    shutil.rmtree(node.images.root / "devices")
    (node.images.root / "devices").mkdir()
    node.images.steps.clear()
    node.images.prefetched.clear()
    with node.start() as one:
        assert one.started.route is Route.TRACED
        assert "wait" not in node.images.steps
        assert node.images.prefetched == [TracePlan(trace), EverythingPlan()]


def test_what_a_traced_start_touches_is_added_to_the_trace(node):
    with node.start() as one:
        trace = find_trace(node.store, one.started.image)
    shutil.rmtree(node.images.root / "devices")
    (node.images.root / "devices").mkdir()
    node.images.touched = TraceSpan(7, 0, 1, 1)
    with node.start() as one:
        assert one.started.route is Route.TRACED
        for thread in threading.enumerate():
            if thread.name == "trace-recording":
                thread.join(10)
        union = find_trace(node.store, one.started.image)
    assert union.spans == (*trace.spans, node.images.touched)


def test_damaged_trace_counts_as_none(node):
    image = node.starter.load(node.store, "small:1", Phases())
    descriptor = Descriptor.of("application/octet-stream", b"no trace")
    node.store.blobs.put(descriptor.digest, b"no trace")
    node.store.references.swap(ReferenceName.trace_of(image.digest), descriptor, None)
    with node.start() as one:
        assert one.started.route is Route.PULLED


class ReadOnlyBlobs:
    """Blobs of a store that takes nothing."""

    def __init__(self, blobs):
        self._blobs = blobs

    def __getattr__(self, name):
        return getattr(self._blobs, name)

    def put(self, digest, content, *, is_checked=False):
        raise StoreReadOnly("file:///read-only")


def test_trace_that_cannot_be_saved_is_no_obstacle(node):
    with node.start(save_in=replace(node.store, blobs=ReadOnlyBlobs(node.store.blobs))) as one:
        assert one.started.route is Route.PULLED
        assert find_trace(node.store, one.started.image) is None


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"argv": ("/bin/nothing-here",)}, ProgramNotFound),
        ({"ready": "tcp:9", "ready_timeout_s": 0.2}, NotReady),
        ({"argv": ("sh", "-c", "echo last words; exit 3")}, NotReady),
    ],
)
def test_failed_start_leaves_only_its_directory(node, fields, error, container_root):
    with pytest.raises(error), node.start(**fields):
        pass
    assert not mounts_below(container_root / "containers")
    assert not mounts_below(node.images.root)
    assert not [path for path in node.parent.child("one").directories() if path.exists()]


def test_log_of_a_failed_start_stays_readable(node, container_root):
    with (
        pytest.raises(NotReady, match="last words"),
        node.start(argv=("sh", "-c", "echo last words; exit 3")),
    ):
        pass
    directory = ContainerDirectory.of(container_root, "one")
    assert last_lines(directory) == ["last words"]
    assert wait(directory).exit_status == 3


def test_failed_fetch_is_undone(node):
    node.images.fail_fetch = True
    with pytest.raises(Unavailable), node.start():
        pass
    assert not mounts_below(node.images.root)


def test_pull_that_nobody_waits_for_any_more_is_interrupted_and_undone(node):
    class Cancelled(Phases):
        def check(self):
            if node.images.steps[-1:] == ["wait"]:
                raise InterruptedError

    image = node.starter.load(node.store, "small:1", Phases())
    spec = ContainerSpec(name="one")
    directory = node.directory("one")
    with pytest.raises(InterruptedError):
        node.starter.start(image, spec, directory, Cancelled(), store=node.store)
    assert node.images.steps == ["mount with marks", "wait"]
    assert not mounts_below(node.images.root)
    directory.remove()


def test_used_port_is_refused_before_anything_is_fetched(node):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse), node.start(ports=(PortMapping(port, 8000),)):
            pass
    assert node.images.steps == []


def test_image_without_command_is_refused(node, source):
    build(f"{source}", node.store, reference="mute:1")
    image = node.starter.load(node.store, "mute:1", Phases())
    spec = ContainerSpec(name="mute")
    with pytest.raises(ImageWithoutCommand, match="no command"):
        node.starter.start(image, spec, node.directory("mute"), Phases(), store=node.store)
    assert node.images.steps == []


def test_five_start_at_once(node):
    names = [f"five-{number}" for number in range(5)]
    with node.start(), ThreadPoolExecutor(5) as threads:

        def one(name):
            with node.start(name=name) as container:
                return container.started.network.address

        addresses = list(threads.map(one, names))
    assert len(set(addresses)) == 5
