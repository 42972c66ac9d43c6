"""What needs more descriptors than may be had is refused with a sentence, not lost as EPERM."""

import os
import resource
import sys

import pytest

from hotstart.core.run import run
from lazyfs import descriptor_room
from lazyfs.descriptor_room import A_DEVICE, NEED_AT_START, DescriptorsShort
from tests.lazyfs.node import Image, running_node


def test_a_limit_below_the_need_is_refused_and_one_that_meets_it_is_not():
    descriptor_room.check_start(NEED_AT_START)
    with pytest.raises(DescriptorsShort, match=f"needs {NEED_AT_START} open files") as caught:
        descriptor_room.check_start(NEED_AT_START - 1)
    assert f"ulimit -Hn {NEED_AT_START}" in caught.value.hint


def test_each_device_needs_its_share():
    fits = (20_000 - NEED_AT_START) // A_DEVICE + 128
    descriptor_room.check_devices(20_000, fits)
    with pytest.raises(DescriptorsShort, match=f"serving {fits + 1} devices"):
        descriptor_room.check_devices(20_000, fits + 1)


def test_the_soft_limit_is_raised_to_the_hard_one():
    script = (
        "import resource; from lazyfs.descriptor_room import raise_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048)); print(raise_limit())"
    )
    assert run([sys.executable, "-c", script]).text.strip() == "2048"


def test_an_agent_with_too_low_a_limit_does_not_start(tmp_path):
    script = (
        "import resource, sys; from agent.main import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))\n"
        "sys.exit(main(['--root', sys.argv[1]]))"
    )
    ended = run([sys.executable, "-c", script, str(tmp_path / "r")], check=False, timeout_s=60)
    assert ended.status == 1
    assert "at most 1024 are allowed" in (tmp_path / "r" / "agent.log").read_text()
    assert not (tmp_path / "r" / "run" / "keeper.sock").exists()


@pytest.mark.kernel
def test_a_mount_that_would_not_fit_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(10_000))
    image = Image(tmp_path / "tree", tmp_path / "store")
    monkeypatch.setattr("lazyfs.keeper_guard.limit_of", lambda _pid: 1024 + 512)
    with running_node(tmp_path / "node") as node:
        with pytest.raises(DescriptorsShort, match="serving 1 devices"):
            node.mounts.mount(image.spec, read_ahead_kib=64)
        assert node.guard.names("fill") == []


@pytest.mark.kernel
def test_keeper_and_worker_have_the_hard_limit(tmp_path):
    with running_node(tmp_path) as node:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        pids = (node.guard.status()["pid"], node.worker_pid())
        assert [descriptor_room.limit_of(pid) for pid in pids] == [hard, hard]
