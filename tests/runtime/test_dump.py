"""A container as Hotstart makes them can be dumped and restored, by runc and CRIU alone."""

from pathlib import Path

import pytest

from hotstart.kernel.namespaces import call_in_network
from runtime.conmon import Conmon
from runtime.containers import status, stop, wait
from runtime.dev_shm import mount_dev_shm, unmount_dev_shm
from runtime.logs import read_log
from runtime.readiness import TcpProbe
from runtime.runc import Programs
from tests.requires import requires
from tests.snapshotter.restored_tree import wait_for

pytestmark = pytest.mark.kernel

_CRIU = Path("/opt/hotstart/criu/bin")
_SCRIPT = (
    "busybox httpd -f -p 8000 -h /site & n=0;"
    " while :; do n=$((n+1)); echo out $n; echo err $n >&2; sleep 0.02; done"
)


@requires("criu")
def test_container_is_dumped_and_restored_with_its_streams_apart(start, tmp_path):
    env = {"PATH": f"{_CRIU}:/usr/sbin:/usr/bin:/sbin:/bin"}
    settings, images = tmp_path / "criu.conf", tmp_path / "images"
    settings.write_text("network-lock skip\nmanage-cgroups ignore\nfile-validation filesize\n")
    images.mkdir()
    with start(_SCRIPT, criu_config=settings, env_of_runc=env) as container:
        directory, runc = container.directory, container.runc
        _await_answer(container.network)
        runc.checkpoint(images, directory.criu)
        assert wait(directory).state == "stopped"
        _make_ready_for_restore(directory, runc)
        pid = Conmon(Programs.find(), directory, env=env).restore(images, directory.criu)
        assert status(directory).pid == pid
        _await_answer(container.network)
        wait_for(
            lambda: {line.stream for line in read_log(directory)} == {"stdout", "stderr"},
            "a line of each stream",
        )
        assert stop(directory, container.group, grace_s=0).exit_status == 137
        lines = [(line.stream, line.data) for line in read_log(directory)]
    # Counting goes on where it was, each stream in its own pipe.
    numbers = [int(data.split()[1]) for stream, data in lines if stream == "stdout"]
    assert numbers[0] > 1
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {data.split()[0] for stream, data in lines if stream == "stderr"} == {b"err"}


def _make_ready_for_restore(directory, runc):
    runc.delete(force=True)
    unmount_dev_shm(directory.dev, directory.shm)
    mount_dev_shm(directory.dev, directory.shm)
    for path in (directory.exit_file, directory.process_file, directory.log):
        path.unlink()


def _await_answer(network):
    def answers():
        return TcpProbe(8000)(1.0) is None

    wait_for(lambda: call_in_network(network.path, answers), "an answer")
