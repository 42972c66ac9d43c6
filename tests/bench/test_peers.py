"""The peers for real: runc and CRIU on an overlay of this machine's own root."""

import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest

from bench.peer_container import CGROUP, PeerFailed, PeerProgram
from bench.peers import PeerPath, PeerStage
from bench.question import Question
from hotstart.kernel.cgroup import Group
from hotstart.kernel.mounts import mounts_below
from snapshotter.criu import INSTALLED, direct_command
from tests.waiting import wait_until

pytestmark = pytest.mark.kernel

CRIU = INSTALLED
SERVER = Path(__file__).parent / "tiny_server.py"
QUESTION = Question("hello")


def program(*argv):
    return PeerProgram(Path("/"), tuple(map(str, argv)), ("PATH=/usr/bin:/bin",))


@pytest.fixture
def scratch(tmp_path):
    yield tmp_path / "stage"
    assert mounts_below(tmp_path) == []
    assert not any(directory.exists() for directory in Group.named(CGROUP).directories())


def python():
    return Path(sys.executable).resolve()


def test_cold_and_restored_servers_give_the_same_correct_answer(scratch):
    with PeerStage(scratch, program(python(), SERVER, "0.0.0.0", 8000), CRIU) as stage:
        (question,) = stage.answers([QUESTION], 20)
        assert question.expected == (0.05, 0.25, -1.0)
        stage.capture(question, 20)
        for path in (
            PeerPath("cold", stage, question, timeout_s=20),
            PeerPath("criu-plain", stage, question, "restore", timeout_s=20),
            PeerPath("criu-plain", stage, question, "restore", timeout_s=20),
        ):
            sample = path.measure(0)
            assert sample.answer_ok
            assert sample.ready_ms > 0
            assert sample.wall_ms >= sample.ready_ms
            assert sum(sample.phases.values()) == pytest.approx(sample.ready_ms)
        assert not list(scratch.glob("peer-*"))
    assert not (scratch / "netns").exists()


def test_a_plain_restore_writes_no_log_and_starts_criu_without_a_shell(scratch):
    with PeerStage(scratch, program(python(), SERVER, "0.0.0.0", 8000), CRIU) as stage:
        stage.capture(QUESTION, 20)
        with stage.container() as container:
            found = shutil.which("criu", path=container.place.env["PATH"])
        assert all(f"'{word}'" in Path(found).read_text() for word in direct_command(CRIU))
        assert str(CRIU) not in Path(found).read_text()

        def logged():
            with stage.container(stage.dumped_upper) as container:
                container.restore(stage.dump)
                return [path.name for path in container.directory.criu.glob("*.log")]

        assert stage.in_private_run(logged) == []


def test_a_wrong_answer_is_never_ready(scratch):
    with PeerStage(scratch, program(python(), SERVER, "0.0.0.0", 8000), CRIU) as stage:
        wrong = QUESTION.expecting([0.05, 0.25, 1.0])
        with pytest.raises(PeerFailed, match="no correct answer") as caught:
            PeerPath("cold", stage, wrong, timeout_s=2).measure(0)
        assert "wrong answers" in str(caught.value)
        assert not list(scratch.glob("peer-*"))


def test_a_program_that_ends_is_reported_with_its_last_words(scratch):
    argv = (python(), "-c", "import sys; sys.exit('no model here')")
    with (
        PeerStage(scratch, program(*argv), CRIU) as stage,
        pytest.raises(PeerFailed, match="no model here"),
    ):
        PeerPath("cold", stage, QUESTION, timeout_s=1).measure(0)


def test_a_program_that_does_not_exist_leaves_nothing(scratch):
    with (
        PeerStage(scratch, program("/does/not/exist"), CRIU) as stage,
        pytest.raises(PeerFailed, match="runc run"),
    ):
        PeerPath("cold", stage, QUESTION, timeout_s=1).measure(0)
    assert not list(scratch.glob("peer-*"))


def test_an_interrupt_ends_the_container_before_the_stage_goes(scratch):
    """The measuring thread isn't interrupted itself: it must be told, and waited for."""
    argv = (python(), "-c", "import time; time.sleep(600)")
    with PeerStage(scratch, program(*argv), CRIU) as stage:
        interrupt = threading.Thread(target=interrupt_when_running, args=(scratch,), daemon=True)
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            PeerPath("cold", stage, QUESTION, timeout_s=60).measure(0)
        interrupt.join()
        assert not list(scratch.glob("peer-*"))


def interrupt_when_running(scratch):
    """Send SIGINT to the main thread once runc knows the container."""
    try:
        wait_until(lambda: list(scratch.glob("peer-*/runc/*/state.json")), "the container")
    finally:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
