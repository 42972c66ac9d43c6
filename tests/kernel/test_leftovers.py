"""The watch over leftovers finds each kind, and removes it."""

import subprocess

import pytest

from hotstart.core.run import run
from hotstart.kernel.mounts import is_mounted, mount
from tests.leftovers import Watch
from tests.small_file_system import loop_device

pytestmark = pytest.mark.kernel


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.leftovers._PATIENCE_S", 0.0)
    return Watch(tmp_path.resolve(), set())


def test_a_mount_is_found_and_unmounted(watch, tmp_path):
    (tmp_path / "m").mkdir()
    mount("tmpfs", tmp_path / "m", "tmpfs")
    assert watch.leftovers() == [f"mount {tmp_path / 'm'}"]
    watch.clean()
    assert watch.leftovers() == []
    assert not is_mounted(tmp_path / "m")


def test_an_orphaned_process_is_found_and_ended(watch, monkeypatch):
    run(["sh", "-c", "sleep 321 >/dev/null 2>&1 </dev/null & echo $!"])
    (found,) = watch.leftovers()
    assert found.endswith("(sleep 321)")
    watch.clean()
    monkeypatch.setattr("tests.leftovers._PATIENCE_S", 5.0)
    assert watch.leftovers() == []


def test_processes_that_may_stay_are_no_leftovers(watch):
    with subprocess.Popen(["sleep", "321"]) as process:
        watch.expected.add(process.pid)
        assert watch.leftovers() == []
        process.kill()


def test_a_loop_device_is_found_while_it_is_there(watch, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with loop_device(image) as device:
        assert watch.leftovers() == [f"loop device {device.name}"]
    assert watch.leftovers() == []


def test_the_small_file_system_is_small_and_really_full(small_file_system):
    with pytest.raises(OSError, match="No space left") as caught:
        (small_file_system / "big").write_bytes(bytes(80 << 20))
    assert caught.value.errno == 28
