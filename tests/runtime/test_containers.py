"""Real containers: what they are, what they wrote, how they end."""

import os
import signal
from pathlib import Path

import pytest

from runtime import containers
from runtime.containers import (
    out_of_memory,
    signal_number,
    status,
    stop,
    takes_signal,
    wait,
)
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


def test_exit_status_survives_the_monitor_dying(start):
    with start("sleep 60") as container:
        monitor = int(container.directory.monitor_pid_file.read_text())
        os.kill(monitor, signal.SIGKILL)
        container.group.kill()
        ended = wait(container.directory)
    assert ended.exit_status == containers.LOST_STATUS
    assert "monitor" in ended.reason


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
    ("text", "number"), [("SIGTERM", 15), ("int", 2), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3)]
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
