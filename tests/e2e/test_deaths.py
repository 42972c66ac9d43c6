"""Whoever dies, nobody reads a wrong byte and nothing is left: agent, keeper, worker, caller."""

import json
import os
import signal

import pytest

from tests.e2e.conftest import SLEEP, answers, ask, eventually
from tests.requires import requires

pytestmark = [
    pytest.mark.e2e,
    requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon"),
]

READY = ("--ready", "http://127.0.0.1:8000/")


def workers(hotstart):
    document = hotstart.ok("agent", "status", "--json").document
    return {"agent": document["pid"], **{w["kind"]: w["pid"] for w in document["workers"]}}


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_killed_agent_is_followed_by_one_that_knows_everything(hotstart, port):
    hotstart.ok("run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000", *READY)
    ask(port, data=b"")
    kill(workers(hotstart)["agent"])
    assert ask(port)["count"] == 1
    assert hotstart.container("web")["state"] == "running"
    assert hotstart.ok("logs", "web").out == "serving\n"
    hotstart.ok("stop", "web")
    assert not answers(port)


def test_a_killed_keeper_and_its_workers_come_back(hotstart, port):
    hotstart.ok("run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000", *READY)
    before = workers(hotstart)
    kill(before["keeper"], before["fill"])
    eventually(lambda: workers(hotstart)["keeper"] != before["keeper"], "a new keeper")
    assert ask(port)["count"] == 0
    script = "import decimal, email.message; print('imported')"
    run = hotstart.ok("exec", "web", "--", "/usr/bin/python3", "-S", "-c", script)
    assert run.out == "imported\n"


def test_without_agent_and_keeper_a_container_is_ended_and_it_says_why(hotstart, port, scratch):
    (scratch / "mnt").mkdir()
    hotstart.ok("run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000", *READY)
    hotstart.ok("mount", "shell:v1", scratch / "mnt")
    found = workers(hotstart)
    kill(found["agent"], found["keeper"])
    view = hotstart.container("web")
    eventually(lambda: hotstart.container("web")["state"] == "stopped", "the end")
    view = hotstart.container("web")
    assert "both killed" in view["reason"]
    assert not answers(port)
    assert not (scratch / "mnt").is_mount()
    hotstart.ok("run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000", *READY)
    assert ask(port)["count"] == 0


def test_an_agent_killed_during_a_start_leaves_nothing(hotstart, port):
    starting = hotstart.start(
        "run", "shell:v1", "-d", "--name", "slow", "-p", f"{port}:80", "--ready", "tcp:80", "--",
        *SLEEP,
    )  # fmt: skip
    eventually(lambda: _runs(hotstart, "slow"), "the first process")
    kill(workers(hotstart)["agent"])
    _, err = starting.communicate(timeout=60)
    assert starting.returncode == 103, err
    assert hotstart.names() == []
    hotstart.nothing_runs()
    assert not answers(port)
    assert not (hotstart.root / "containers" / "slow").exists()


def test_an_interrupted_start_is_undone(hotstart, port):
    starting = hotstart.start(
        "run", "shell:v1", "--name", "slow", "-p", f"{port}:80", "--ready", "tcp:80", "--", *SLEEP
    )
    eventually(lambda: _runs(hotstart, "slow"), "the first process")
    starting.send_signal(signal.SIGINT)
    out, _ = starting.communicate(timeout=30)  # not the probe's 60 s
    assert (starting.returncode, out) == (130, "")
    eventually(lambda: hotstart.names() == [], "the undoing")
    hotstart.nothing_runs()
    assert not answers(port)


@requires("criu", "userfaultfd_events")
def test_an_interrupted_capture_publishes_nothing_and_the_container_goes_on(hotstart, port):
    hotstart.ok("run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000", *READY)
    capturing = hotstart.start("snapshot", "web", "-t", "half:v1")
    eventually(lambda: "rehearse" in capturing.stderr.readline(), "the rehearsal")
    capturing.send_signal(signal.SIGINT)
    capturing.communicate(timeout=60)
    assert capturing.returncode == 130
    eventually(lambda: not list((hotstart.root / "tmp").iterdir()), "the undoing")
    assert ask(port)["count"] == 0
    assert "half:v1" not in hotstart.ok("images").out


def test_an_interrupted_exec_ends_its_program(hotstart):
    hotstart.ok("run", "shell:v1", "-d", "--name", "one", "--", *SLEEP)
    running = hotstart.start("exec", "one", "--", "/bin/sh", "-c", "echo $$; while :; do :; done")
    pid_inside = int(running.stdout.readline())
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130

    def gone():
        listed = hotstart.ok("exec", "one", "--", "/bin/sh", "-c", "echo /proc/[0-9]*").out
        return f"/proc/{pid_inside}" not in listed.split()

    eventually(gone, "the end of the program")


def test_the_agent_in_the_foreground_ends_when_it_is_told_to(hotstart):
    running = hotstart.start("agent", "run")
    eventually(lambda: hotstart("agent", "status").status == 0, "the agent")
    refused = hotstart("agent", "run")
    assert refused.status == 102
    assert "another agent" in refused.err
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 0
    assert hotstart("agent", "status").status == 103


def test_memory_beyond_the_limit_says_so(hotstart):
    script = "x = bytearray(64 << 20); import os; os.urandom(1); x[::4096] = bytes(len(x[::4096]))"
    ran = hotstart(
        "run", "server:v1", "--name", "big", "--memory", "32m", "--json", "--",
        "/usr/bin/python3", "-S", "-c", script,
    )  # fmt: skip
    assert ran.status == 137, ran
    assert "out of memory" in json.loads(ran.out)["container"]["reason"]


def _runs(hotstart, name):
    pid_file = hotstart.root / "containers" / name / "container.pid"
    return pid_file.exists()
