"""Options as CRIU reads them, the front that runc starts, and where CRIU is looked for."""

import os
import socket
import subprocess

import pytest

from hotstart.core.errors import Unsupported
from hotstart.kernel.criu_check import CriuVersion
from snapshotter.criu import CriuFront, CriuOptions, locate, version_answer
from tests.requires import CRIU, requires


def test_the_configuration_has_one_option_a_line(tmp_path):
    path = CriuOptions(action_script="/hook").write(tmp_path / "criu.conf")
    lines = path.read_text().splitlines()
    # An optional argument must be joined by "=": CRIU drops it in silence otherwise.
    assert "manage-cgroups=ignore" in lines
    assert "network-lock skip" in lines
    assert "file-validation filesize" in lines
    assert "action-script /hook" in lines
    assert "link-remap" not in lines
    assert "link-remap" in CriuOptions(link_remap=True).config_text()
    assert os.listdir(tmp_path) == ["criu.conf"]


def test_the_version_is_answered_as_criu_answers_it():
    assert version_answer(CriuVersion((4, 2, 1))) == bytes.fromhex("080a10015206080410022001")
    assert version_answer(CriuVersion((4, 3))) == bytes.fromhex("080a1001520408041003")


def test_a_named_criu_that_is_no_program_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="is not a program"):
        locate({"HOTSTART_CRIU": str(tmp_path / "criu")})


@pytest.mark.kernel
@requires("criu")
class TestFront:
    @pytest.fixture
    def front(self, tmp_path):
        front = CriuFront(tmp_path / "front", CRIU)
        front.install()
        return front

    def ask(self, front, request):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                process = subprocess.Popen(
                    [front.path / "criu", "swrk", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                )
            ours.settimeout(20)
            ours.send(request)
            answer = ours.recv(4096)
        process.wait()
        return answer

    def test_it_answers_for_the_version_like_criu_itself(self, front):
        real = subprocess.run([CRIU, "--version"], capture_output=True, text=True).stdout
        assert f"Version: {front.version}" in real
        assert self.ask(front, b"\x08\x0a") == version_answer(front.version)

    def test_anything_else_reaches_criu(self, front):
        # CriuReq{type: CHECK}; the answer is of type CHECK.
        assert self.ask(front, b"\x08\x04").startswith(b"\x08\x04")

    def test_words_and_exit_status_pass_through(self, front):
        done = subprocess.run([front.path / "criu", "--version"], capture_output=True, text=True)
        assert done.returncode == 0
        assert f"Version: {front.version}" in done.stdout
        assert subprocess.run([front.path / "criu", "nonsense"], capture_output=True).returncode

    def test_the_hosts_run_is_not_touched(self, front):
        before = os.listdir("/run")
        subprocess.run([front.path / "criu", "check"], capture_output=True)
        assert os.listdir("/run") == before
