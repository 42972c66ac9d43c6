"""Real containers: what they are, what they wrote, how they end."""

import os
import signal
from pathlib import Path

import pytest

from hotstart.core.run import spawn
from hotstart.kernel.cgroup import Group
from hotstart.kernel.pidfd import ProcessIdentity, recall, remember
from runtime import containers
from runtime.container_directory import ContainerDirectory
from runtime.containers import (
    out_of_memory,
    recognise,
    signal_number,
    status,
    stop,
    takes_signal,
    wait,
)
from runtime.links import root_id
from runtime.logs import LogKeeper, last_lines, pieces, read_log
from runtime.memory_end import telling_of_memory
from runtime.readiness import NotReady
from runtime.runc import ProgramNotFound
from tests.waiting import wait_until

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("code", [0, 1, 7, 126, 137, 255])
def test_exit_status_is_kept(start, code):
    with start(f"exit {code}") as container:
        ended = wait(container.directory)
    assert (ended.state, ended.exit_status) == ("stopped", code)
    assert ended.finished_ns > 0


def test_signal_gives_128_and_its_number(start):
    with start("kill -KILL $$") as container:
        ended = wait(container.directory)
    # The first process of a pid namespace ignores signals from inside it (pid_namespaces(7)).
    assert ended.exit_status == 0
    with start("sleep 60") as container:
        container.group.kill()
        assert wait(container.directory).exit_status == 128 + signal.SIGKILL


def test_streams_stay_apart(start):
    with start("echo out; echo err >&2; printf unfinished") as container:
        wait(container.directory)
        lines = [(line.stream, line.data) for line in read_log(container.directory)]
    assert sorted(lines) == [
        ("stderr", b"err\n"),
        ("stdout", b"out\n"),
        ("stdout", b"unfinished"),
    ]


def test_stdin_ends(start):
    with start("cat; echo read everything") as container:
        wait(container.directory)
        assert last_lines(container.directory) == ["read everything"]


def test_environment_directory_and_identity_come_from_image_and_spec(start):
    script = "pwd; id -u; id -g; id -G; echo $FROM $MORE $HOME $HOSTNAME; cat /etc/hostname"
    with start(script, env=("MORE=spec",), user="web", hostname="shown") as container:
        wait(container.directory)
        lines = last_lines(container.directory)
    assert lines == ["/site", "33", "34", "34 77", "image spec /srv shown", "shown"]


def test_follow_ends_with_the_container(start):
    with start("for i in 1 2 3; do echo $i; done; read x < /dev/zero & sleep 0.3; echo 4") as one:
        running = lambda: status(one.directory).state == "running"  # noqa: E731 - the caller's form
        lines = [line.data for line in read_log(one.directory, follow=running)]
    assert lines == [b"1\n", b"2\n", b"3\n", b"4\n"]


def test_full_pieces_of_the_log_are_kept(start):
    keeper = LogKeeper()
    script = (
        "n=0; while [ $n -lt 3000 ]; do echo line $n; n=$((n+1));"
        " [ $((n % 1000)) -eq 0 ] && sleep 0.6; done"
    )
    try:
        with start(script, log_max_bytes=60_000) as container:
            keeper.watch(container.directory)
            wait(container.directory)
            wait_until(lambda: len(pieces(container.directory)) >= 3, "the third piece")
            text = b"".join(line.data for line in read_log(container.directory))
            tail = last_lines(container.directory, 2)
            newest = container.directory.log.stat().st_size
    finally:
        keeper.close()
    assert text.decode().splitlines() == [f"line {n}" for n in range(3000)]
    assert tail == ["line 2998", "line 2999"]
    assert newest <= 60_000


def test_stop_asks_first(start):
    with start("trap 'echo asked; exit 3' TERM; while :; do sleep 0.05; done") as container:
        _await_loop(container)
        ended = stop(container.directory, container.group, grace_s=20)
        assert ended.exit_status == 3
        assert last_lines(container.directory) == ["asked"]
        assert stop(container.directory, container.group) == ended


def test_stop_kills_what_does_not_listen(start):
    script = "trap 'echo no' TERM; while :; do sleep 0.05; done"
    with start(script) as container:
        _await_loop(container)
        ended = stop(container.directory, container.group, grace_s=0.2)
    assert ended.exit_status == 137


def test_process_that_cannot_take_the_signal_gets_no_grace(start):
    with start("exec sleep 3600") as container:
        _await_program(container, b"sleep")
        assert not takes_signal(container.pid, signal.SIGTERM)
        assert stop(container.directory, container.group, grace_s=3600).exit_status == 137


def test_a_stop_signal_that_is_none_keeps_nothing_alive(start, caplog):
    with start("trap 'exit 3' TERM; while :; do sleep 0.05; done") as container:
        _await_loop(container)
        ended = stop(container.directory, container.group, stop_signal="SIGNONE", grace_s=20)
    assert ended.exit_status == 3
    assert "stop_signal_unknown" in caplog.text


def test_exit_status_survives_the_monitor_dying(start):
    with start("sleep 60") as container:
        monitor = int(container.directory.monitor_pid_file.read_text())
        os.kill(monitor, signal.SIGKILL)
        container.group.kill()
        ended = wait(container.directory)
    assert ended.exit_status == containers.LOST_STATUS
    assert "monitor" in ended.reason


@pytest.fixture
def daemon():
    """Somebody of the host's, who has a number that a container had."""
    process = spawn(["sleep", "600"])
    yield ProcessIdentity.of(process.pid)
    process.kill()
    process.wait()


def leave_behind(root, daemon, text):
    """Leave what a container leaves whose machine lost its power: the daemon has both numbers."""
    directory = ContainerDirectory.of(root, "lost")
    directory.create()
    for file in (directory.pid_file, directory.monitor_pid_file):
        file.write_text(str(daemon.pid))
    for file in (directory.process_file, directory.monitor_process_file):
        if text is not None:
            file.write_text(text.format(daemon))
    return directory


@pytest.mark.parametrize(
    "text", ["{0.pid} {0.start_ticks} 01234567-89ab-cdef-0123-456789abcdef", "", None]
)
def test_after_a_reboot_nobody_is_taken_for_the_container(container_root, daemon, text):
    directory = leave_behind(container_root, daemon, text)
    group = Group.named(f"/hotstart-{root_id(container_root)}").child("lost")
    recognise(directory, group)
    ended = stop(directory, group, grace_s=0)
    assert daemon.alive
    assert (ended.state, ended.exit_status) == ("stopped", containers.LOST_STATUS)
    assert ended.reason.startswith("the machine was started anew while it ran")


def test_whoever_gets_the_number_later_is_not_the_container(container_root, daemon):
    directory = leave_behind(container_root, daemon, None)
    earlier = ProcessIdentity(daemon.pid, daemon.start_ticks - 1)
    remember(earlier, directory.process_file)
    remember(earlier, directory.monitor_process_file)
    group = Group.named(f"/hotstart-{root_id(container_root)}").child("lost")
    assert stop(directory, group, grace_s=0).exit_status == containers.LOST_STATUS
    assert daemon.alive


def test_a_container_of_an_older_version_is_recognised_by_its_control_group(start):
    with start("sleep 60") as container:
        directory = container.directory
        known = recall(directory.process_file), recall(directory.monitor_process_file)
        directory.process_file.unlink()
        directory.monitor_process_file.unlink()
        recognise(directory, container.group)
        assert (recall(directory.process_file), recall(directory.monitor_process_file)) == known
        assert status(directory).pid == container.pid
        container.group.kill()
        assert wait(directory).exit_status == 128 + signal.SIGKILL


def test_memory_limit_ends_the_container_and_says_why(start):
    script = "head -c 100m /dev/zero | tail | cat > /dev/null; exit 9"
    with start(["busybox", "sh", "-c", script], memory_bytes=16 << 20) as container:
        wait(container.directory)
        assert out_of_memory(container.group)
        with pytest.raises(NotReady, match="out of memory"), telling_of_memory(container.group):
            raise NotReady("web", "it has ended", [])


def test_limits_reach_the_kernel(start):
    with start("sleep 60", memory_bytes=64 << 20, cpus=0.5) as container:
        group = container.group
        found = {
            name: (directory / name).read_text().strip()
            for directory in group.directories()
            for name in ("memory.max", "memory.limit_in_bytes", "cpu.max", "cpu.cfs_quota_us")
            if (directory / name).exists()
        }
        pids = [d / "pids.max" for d in group.directories() if (d / "pids.max").exists()]
        assert [path.read_text() for path in pids] == ["4096\n"]
    memory = found.get("memory.max") or found.get("memory.limit_in_bytes")
    cpu = found.get("cpu.max") or found.get("cpu.cfs_quota_us")
    assert memory == str(64 << 20)
    assert cpu in ("50000 100000", "50000")


def test_unknown_program_is_the_callers_mistake(start):
    with pytest.raises(ProgramNotFound, match="nothing-here"), start(["/bin/nothing-here"]):
        pass


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exec_gives_the_programs_status(start, code):
    with start("sleep 60") as container:
        outcome = container.exec("sh", "-c", f"cat; echo no >&2; exit {code}", stdin=b"sent")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (code, b"sent", b"no\n")


def test_exec_of_an_unknown_program_is_told_from_its_status(start):
    with start("sleep 60") as container, pytest.raises(ProgramNotFound):
        container.exec("/bin/nothing-here")


def test_exec_takes_another_user_directory_and_environment(start):
    with start("sleep 60") as container:
        outcome = container.exec(
            "sh", "-c", "id -u; pwd; echo $A $FROM", user="web", workdir="/tmp", env=("A=b",)
        )
    assert outcome.stdout == b"33\n/tmp\nb image\n"


def test_exec_that_takes_too_long_leaves_nothing(start):
    with start("sleep 60") as container:
        outcome = container.exec("sleep", "1234", timeout_s=0.3)
        assert outcome.status == 137
        assert len(container.runc.processes()) == 1
        assert not list(container.directory.path.glob("exec-*"))


def test_stopped_container_leaves_nothing_in_the_kernel(start):
    with start("sleep 60") as container:
        stop(container.directory, container.group, grace_s=0)
    assert not [path for path in container.group.directories() if path.exists()]
    assert status(container.directory).exit_status == 137


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("int", 2),
        ("9", 9),
        ("37", 37),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("rtmax-2", signal.SIGRTMAX - 2),
    ],
)
def test_signals_are_read_as_people_write_them(text, number):
    assert signal_number(text) == number


def _await_loop(container):
    """Wait until the shell has set its trap: it loops then."""
    wait_until(lambda: len(container.runc.processes()) > 1, "the loop's program")


def _await_program(container, name):
    """Wait until the shell has become the program."""
    command = Path(f"/proc/{container.pid}/cmdline")
    wait_until(lambda: command.read_bytes().startswith(name), "the program")
