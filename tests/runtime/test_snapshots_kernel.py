"""A container is captured and restored for real: runc, conmon, CRIU, EROFS, the page worker."""

import os
import shutil
import socket
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.core.errors import NotFound, UserError
from hotstart.core.phases import Phases
from hotstart.core.progress import NullSink
from hotstart.kernel.mounts import mounts_below
from hotstart.store.references import ReferenceName
from hotstart.store.signing import NodeKey, SignatureForeign
from runtime import capture
from runtime.bundle import read_config
from runtime.capture import CaptureFailed
from runtime.container_directory import running_process
from runtime.container_spec import Volume
from runtime.rehearsal import RehearsalFailed
from runtime.restore import RestoreRefused
from tests.requires import found, requires
from tests.runtime.small_image import GOLDEN, PORT, SmallNode, wait_for

pytestmark = [pytest.mark.kernel, requires("criu")]


@pytest.fixture(scope="module")
def node(small_node):
    return small_node


@pytest.fixture(scope="module")
def published(node):
    """A snapshot taken after two requests had changed memory and files."""
    with node.container("frozen") as container:
        container.ask(method="POST", path="/")
        container.ask(method="POST", path="/")
        captured = container.capture("counted", GOLDEN)
        assert container.runc.state().status == "stopped"
    return captured


def test_a_restored_process_goes_on_where_the_frozen_one_was(node, published):
    with node.restore("counted", "again") as restored:
        answer = restored.ask(path="/")
        assert (answer["count"], answer["file"]) == (2, "count 2")
        assert restored.ask(method="POST", path="/") == {"count": 3}


def test_two_restores_of_one_snapshot_do_not_see_each_other(node, published):
    with node.restore("counted", "one") as one, node.restore("counted", "two") as two:
        one.ask(method="POST", path="/")
        assert one.ask(path="/")["count"] == 3
        assert two.ask(path="/") == {**one.ask(path="/"), "count": 2, "file": "count 2"}


def test_a_restored_container_can_be_captured_whole(node, published):
    """Memory that nobody has asked for since the restore must be in the second dump too."""
    with node.restore("counted", "second") as restored:
        # A file of the first snapshot goes, one of the image goes: both must stay away.
        (restored.directory.rootfs / "etc/hosts").unlink()
        shutil.rmtree(restored.directory.rootfs / "tmp")
        subject = restored.subject
        captured = node.capturer.capture(
            subject, node.store, "again", progress=NullSink(), phases=Phases()
        )
        assert captured.config.argv == published.config.argv
    with node.restore("counted", "first") as first, node.restore("again", "third") as third:
        assert third.ask(path="/") == first.ask(path="/")
        assert third.ask(path="/")["memory"] > 0
        assert (first.directory.rootfs / "tmp").exists()
        assert not (third.directory.rootfs / "tmp").exists()
        assert (first.directory.rootfs / "etc/hosts").exists()
        assert not (third.directory.rootfs / "etc/hosts").exists()


def test_an_images_own_user_is_kept_through_a_second_snapshot(tmp_path):
    """Or the capture is refused with the reason, where root may not ask for others' limits."""
    node = SmallNode(tmp_path, user="1000")
    with node.stack:
        with node.container("frozen") as container:
            container.ask(method="POST", path="/")
            if not found("other_users", tmp_path).present:
                with pytest.raises(CaptureFailed, match="CAP_SYS_RESOURCE"):
                    container.capture("first", GOLDEN)
                assert container.ask(path="/")["count"] == 1
                return
            first = container.capture("first", GOLDEN)
        with node.restore("first", "again") as restored:
            assert user_of(restored) == 1000
            restored.ask(method="POST", path="/")
            second = restored.capture("second", GOLDEN)
        assert first.config.user == second.config.user == "1000:0"
        with node.restore("second", "third") as restored:
            assert user_of(restored) == 1000
            answer = restored.ask(method="POST", path="/")  # writes a file that only it may write
            assert answer == {"count": 3}
            assert restored.ask(path="/")["file"] == "count 3"
            process = read_config(restored.directory)["process"]
            assert process["user"]["uid"] == 1000


def test_shared_memory_keeps_owners_modes_fifos_and_holes(node):
    with node.container("shared") as container:
        shm = container.directory.shm
        (shm / "own").write_bytes(b"data")
        os.chmod(shm / "own", 0o600)
        os.chown(shm / "own", 1000, 1001)
        os.mkfifo(shm / "fifo", 0o640)
        with open(shm / "holes", "wb") as file:
            file.truncate(64 << 20)
        container.capture("shared", GOLDEN)
    with node.restore("shared", "shared2") as restored:
        shm = restored.directory.shm
        own = (shm / "own").stat()
        assert (own.st_uid, own.st_gid, stat.S_IMODE(own.st_mode)) == (1000, 1001, 0o600)
        assert (shm / "own").read_bytes() == b"data"
        assert stat.S_ISFIFO((shm / "fifo").stat().st_mode)
        assert (shm / "holes").stat().st_blocks == 0
        assert stat.S_IMODE(shm.stat().st_mode) == 0o1777


def test_a_child_that_nobody_has_reaped_is_restored_as_one(node):
    with node.container("parent") as container:
        container.ask(path="/zombie")
        wait_for(lambda: states_in(container) == ["Z"], "a zombie")
        container.capture("parent", GOLDEN)
    with node.restore("parent", "parent2") as restored:
        assert states_in(restored) == ["Z"]
        assert restored.ask(path="/")["count"] == 0


def test_a_container_that_is_stopped_answers_nothing_that_its_snapshot_does_not_know(
    node, monkeypatch
):
    """A client counts without a pause; the dump's end is held open for one more answer."""
    dumped, answered_later, acknowledged = threading.Event(), threading.Event(), []

    def count(container):
        while (answer := container.ask(method="POST", path="/")) is not None:
            acknowledged.append(answer["count"])
            if dumped.is_set():
                answered_later.set()

    def merge(*_):
        dumped.set()
        answered_later.wait(0.3)

    monkeypatch.setattr(capture, "merge_lower_upper", merge)
    with node.container("busy") as container:
        client = threading.Thread(target=count, args=(container,))
        client.start()
        wait_for(lambda: acknowledged, "the first answer")
        container.capture("busy")
        client.join()
    with node.restore("busy", "busy2") as restored:
        assert restored.ask(path="/")["count"] >= acknowledged[-1] > 0


def states_in(container):
    """Return the states of the processes in a container but the first one's."""
    first = running_process(container.directory).pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [
        Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children
    ]


def user_of(container):
    return os.stat(f"/proc/{container.restored.pid}").st_uid


def test_a_published_snapshot_says_what_it_proved(node, published):
    config = published.config
    assert config.verdict == "rehearsed"
    assert config.stateful
    assert config.stop_signal == "SIGINT"
    assert config.goldens[0].expected.status == 200
    assert published.manifest.bundle is not None
    assert published.frozen_ms > 0
    snapshot = node.restorer.load(node.store, "counted", Phases())
    assert sum(run.pages for run in snapshot.memory_order) > 100


def test_nothing_is_left_of_a_restored_container(node, published):
    with node.restore("counted", "gone"):
        pass
    assert mounts_below(node.root / "containers" / "gone") == []
    assert node.pages.sessions() == []
    assert node.keeper.names("page") == []
    assert not list((node.root / "tmp").iterdir())


def test_without_a_golden_request_it_is_ready_checked_only(node):
    with node.container("quiet") as container:
        captured = container.capture("quiet", leave_running=True)
        assert captured.config.verdict == "ready-checked only"
        assert container.ask(path="/")["count"] == 0


def test_an_answer_that_differs_publishes_nothing_and_the_container_goes_on(node):
    golden = {"path": "/time", "port": PORT}
    with node.container("moody") as container:
        with pytest.raises(RehearsalFailed, match="answered differently"):
            container.capture("moody", golden)
        assert container.ask(path="/")["count"] == 0
        assert container.runc.state().status == "running"
    with pytest.raises(NotFound):
        node.store.references.get(ReferenceName.parse("moody"))


def test_what_criu_cannot_dump_is_said_in_plain_words_and_the_container_goes_on(node, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen(1)
    with listener, node.container("tied", (Volume(str(tmp_path), "/host"),)) as container:
        container.ask(path="/connect")
        with pytest.raises(CaptureFailed, match="unix socket outside"):
            container.capture("tied", GOLDEN)
        assert container.ask(path="/")["count"] == 0


def test_a_rehearsal_never_writes_to_a_volume(node, tmp_path):
    golden = {"path": "/volume", "port": PORT, "expect": {"mode": "json"}}
    volume = (Volume(str(tmp_path), "/host"),)
    with node.container("writer", volume) as container:
        container.capture("writer", golden, golden)
    # Twice for the live answers, never by the rehearsals.
    assert (tmp_path / "written").read_text() == "xx"
    with node.restore("writer", "writer2", volume) as restored:
        restored.ask(path="/volume")
        assert (tmp_path / "written").read_text() == "xxx"
    with pytest.raises(UserError, match="/host"):
        node.restore("writer", "writer3")
    assert not (node.root / "containers" / "writer3").exists()


def test_a_restore_elsewhere_is_refused_with_the_reasons(node, published, monkeypatch):
    other = replace(node.host, cpu_flags=node.host.cpu_flags[:3])
    monkeypatch.setattr(node, "host", other)
    with pytest.raises(RestoreRefused, match="CPU features"):
        node.restore("counted", "elsewhere")


def test_a_snapshot_signed_by_a_stranger_is_refused(node, published, monkeypatch, tmp_path):
    monkeypatch.setattr(node, "key", NodeKey.load_or_create(tmp_path / "stranger"))
    with pytest.raises(SignatureForeign):
        node.restore("counted", "foreign")


def test_a_failed_restore_undoes_everything(node, published, monkeypatch):
    def never(*_):
        raise NotFound("never ready")

    tools = replace(node.tools, wait_ready=never)
    monkeypatch.setattr(node.restorer, "_tools", tools)
    before = set(os.listdir(node.root / "containers"))
    with pytest.raises(NotFound, match="never ready"):
        node.restore("counted", "never")
    wait_for(lambda: node.pages.sessions() == [], "end of the page session")
    assert set(os.listdir(node.root / "containers")) == before
    assert node.keeper.names("page") == []
