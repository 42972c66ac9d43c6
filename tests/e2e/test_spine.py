"""The whole path on one machine, through the command line: build, run, look, snapshot, restore."""

import json
import signal
from pathlib import Path

import pytest

from hotstart.kernel.pidfd import ProcessIdentity
from tests.e2e.conftest import SLEEP, answers, ask, eventually
from tests.requires import requires

pytestmark = [
    pytest.mark.e2e,
    requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon", "fuse"),
]

READY = ("--ready", "http://127.0.0.1:8000/")
GOLDEN = {"method": "GET", "path": "/", "port": 8000, "expect": {"mode": "exact"}}


def serve(hotstart, port, *words, name="web"):
    return hotstart.ok(
        "run", "server:v1", "-d", "--name", name, "-p", f"{port}:8000", *READY, *words, "--json"
    )


def test_life_of_a_container(hotstart, port):
    started = serve(hotstart, port)
    assert started.document["container"]["name"] == "web"
    assert started.document["route"] == "cold"
    assert started.document["ready_ms"] > 0
    assert "unaccounted_ms" in started.document["phases"]
    assert ask(port)["count"] == 0
    assert ask(port, data=b"")["count"] == 1

    assert hotstart.container("web")["state"] == "running"
    assert hotstart.ok("logs", "web").out == "serving\n"
    script = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(7)"
    ran = hotstart("exec", "web", "--", "/usr/bin/python3", "-S", "-c", script, stdin="words\n")
    assert (ran.status, ran.out) == (7, "WORDS\n")

    hotstart.ok("stop", "web")
    assert not answers(port)
    assert hotstart.container("web")["state"] == "stopped"
    assert hotstart.ok("logs", "web").out == "serving\n"
    assert int(hotstart.ok("wait", "web").out) == hotstart.container("web")["exit_status"]
    hotstart.ok("rm", "web")
    assert hotstart.names() == []
    assert hotstart("logs", "web").status == 101


def test_attached_run_passes_output_and_status_through(hotstart):
    ran = hotstart(
        "run", "shell:v1", "--env", "A=b", "--workdir", "/data", "--",
        "-c", "echo out; echo err >&2; echo $A $FROM_IMAGE; pwd; exit 9",
    )  # fmt: skip
    assert ran.status != 9  # the arguments replace the command /bin/sh: "-c" is no program
    ran = hotstart(
        "run", "shell:v1", "--env", "A=b", "--workdir", "/data", "--",
        "/bin/sh", "-c", "echo out; echo err >&2; echo $A $FROM_IMAGE; pwd; exit 9",
    )  # fmt: skip
    assert (ran.status, ran.out) == (9, "out\nb yes\n/data\n"), ran
    assert "err\n" in ran.err


def test_attached_json_is_one_document_and_has_the_exit_status(hotstart):
    ran = hotstart("run", "shell:v1", "--json", "--", "/bin/sh", "-c", "echo words; exit 3")
    assert ran.status == 3
    assert ran.document["exit_status"] == 3
    assert "words" in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_stops_an_attached_container(hotstart, number):
    running = hotstart.start(
        "run", "shell:v1", "--name", "sleeper", "--", *SLEEP[:2], f"echo begun; {SLEEP[2]}"
    )
    assert running.stdout.readline() == "begun\n"
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == 0  # the program's own
    assert hotstart.container("sleeper")["state"] == "stopped"


def test_volumes_users_and_limits(hotstart, scratch):
    (scratch / "shared").mkdir()
    (scratch / "shared" / "file").write_text("from the host")
    ran = hotstart.ok(
        "run", "shell:v1", "--user", "12:34", "--memory", "64m", "--cpus", "0.5",
        "-v", f"{scratch / 'shared'}:/data:ro", "--",
        "/bin/sh", "-c", "id -u; id -g; cat /data/file; echo x > /data/new || echo refused",
    )  # fmt: skip
    assert ran.out == "12\n34\nfrom the hostrefused\n"
    assert not (scratch / "shared" / "new").exists()


def test_a_name_in_use_is_refused_and_an_ended_one_is_reused(hotstart):
    hotstart.ok("run", "shell:v1", "-d", "--name", "one", "--", *SLEEP)
    taken = hotstart("run", "shell:v1", "-d", "--name", "one", "--", "/bin/true", "--json")
    assert taken.status == 102
    hotstart.ok("stop", "one")
    hotstart.ok("run", "shell:v1", "--name", "one", "--", "/bin/echo", "again")
    assert hotstart.ok("logs", "one").out == "again\n"


@requires("criu", "userfaultfd_events")
def test_a_snapshot_is_restored_with_its_state(hotstart, port, scratch):
    serve(hotstart, port)
    for _ in range(3):
        ask(port, data=b"")
    before = ask(port)
    golden = scratch / "golden.json"
    golden.write_text(json.dumps(GOLDEN))
    taken = hotstart.ok("snapshot", "web", "-t", "warm:v1", "--golden", golden, "--json")
    assert taken.document["verdict"] == "rehearsed"
    assert taken.document["stateless"] is False  # a cold start counts from 0
    assert "a cold start does not answer the same: " in taken.document["stateful_reason"]
    assert not answers(port)
    hotstart.ok("verify", "warm:v1")

    restored = hotstart.ok(
        "restore", "warm:v1", "-d", "--name", "again", "-p", f"{port}:8000", "--json"
    )
    assert restored.document["route"] == "restore"
    assert ask(port) == before
    assert ask(port, data=b"")["count"] == 4
    run = hotstart.ok("exec", "again", "--", "/usr/bin/python3", "-S", "-c", "print('inside')")
    assert run.out == "inside\n"
    hotstart.ok("stop", "again")
    assert not answers(port)
    shown = hotstart.ok("inspect", "warm:v1", "--json").document
    assert shown["verdict"] == "rehearsed"
    assert shown["bundle"]["stored_bytes"] > 0
    assert hotstart.ok("trace", "warm:v1", "--json").document["memory_bytes"] > 0


@requires("criu", "userfaultfd_events")
def test_leave_running_leaves_it_running_and_an_empty_node_restores(hotstart, other, port):
    serve(hotstart, port)
    before = ask(port)
    taken = hotstart.ok("snapshot", "web", "-t", "left:v1", "--leave-running")
    assert "left:v1 is stateful: no golden request says" in taken.err
    assert ask(port) == before
    hotstart.ok("stop", "web")
    foreign = other("restore", "left:v1", "-d", "-p", f"{port}:8000", "--json")
    assert foreign.status == 104  # signed by a key that the other root does not trust
    assert "trusted" in foreign.error["message"]
    other.nothing_runs()
    other.ok("restore", "left:v1", "-d", "-p", f"{port}:8000", "--trust-unsigned")
    assert ask(port) == before


@requires("criu", "userfaultfd_events")
def test_a_run_uses_a_stateless_snapshot_unless_told_not_to(hotstart, port):
    serve(hotstart, port)
    hotstart.ok("snapshot", "web", "-t", "quick:v1", "--stateless")
    again = serve(hotstart, port, name="again")
    assert again.document["route"] == "restore"
    assert ask(port)["count"] == 0
    hotstart.ok("stop", "again")
    cold = serve(hotstart, port, "--no-snapshot", name="cold")
    assert cold.document["route"] == "cold"
    hotstart.ok("stop", "cold")
    other_words = serve(hotstart, port, "--env", "X=y", name="other")
    assert other_words.document["route"] == "cold"


def test_containers_outlive_the_agent(hotstart, port):
    serve(hotstart, port)
    ask(port, data=b"")
    hotstart.ok("agent", "stop")
    assert hotstart("agent", "status").status == 103
    assert ask(port)["count"] == 1
    adopted = hotstart.ok("ps", "--json")
    assert "started the agent" in adopted.err
    assert hotstart.container("web")["state"] == "running"
    assert hotstart.ok("exec", "web", "--", "/usr/bin/python3", "-S", "-c", "print(1)").out == "1\n"
    hotstart.ok("stop", "web")
    assert not answers(port)


def test_a_container_that_ends_while_no_agent_runs_keeps_its_status(hotstart):
    script = "while [ ! -e /data/end ]; do sleep 0.05; done; exit 5"
    hotstart.ok("run", "shell:v1", "-d", "--name", "brief", "--", "/bin/sh", "-c", script)
    hotstart.ok("exec", "brief", "--", "/bin/true")
    pid = hotstart.container("brief")["pid"]
    hotstart.ok("agent", "stop")
    upper = hotstart.root / "containers" / "brief" / "rootfs" / "data" / "end"
    upper.write_text("")
    eventually(lambda: not _alive(pid), "the end of the container")
    assert hotstart.ok("wait", "brief").out == "5\n"


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stop_all_ends_everything(hotstart, port, scratch):
    serve(hotstart, port)
    (scratch / "mnt").mkdir()
    hotstart.ok("mount", "shell:v1", scratch / "mnt")
    agent = hotstart.ok("agent", "status", "--json").document["pid"]
    ended = hotstart.ok("agent", "stop", "--all", "--json").document
    assert ProcessIdentity.of(agent) is None
    assert not list((hotstart.root / "run").glob("*.sock"))
    assert ended["stopped_containers"] == 1
    assert not answers(port)
    assert not (scratch / "mnt").is_mount()
    assert hotstart("agent", "status").status == 103


def test_two_roots_live_side_by_side(hotstart, other, port):
    serve(hotstart, port)
    second = other("run", "server:v1", "-d", "-p", f"{port}:8000", "--json")
    assert second.status == 102  # the port is in use by the other root
    assert other.names() == []
    other.ok("agent", "stop", "--all")
    assert ask(port)["count"] == 0


@pytest.mark.parametrize("filler", ["fanotify", "fuse"])
def test_mounts_show_files_and_come_back_after_a_restart(hotstart, scratch, filler):
    target = scratch / "mnt"
    target.mkdir()
    hotstart.ok("agent", "start", "--filler", filler)
    hotstart.ok("mount", "shell:v1", target)
    assert (target / "bin/busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    document = hotstart.ok("mounts", "--json").document
    (row,) = document["mounts"]
    assert (row["path"], row["filler"]) == (str(target), filler)
    workers = hotstart.ok("agent", "status", "--json").document["workers"]
    pids = {worker["kind"]: worker["pid"] for worker in workers}
    assert (document["keeper_pid"], document["worker_pid"]) == (pids["keeper"], pids["fill"])
    assert 0 < row["bytes_used"] <= row["bytes_local"] <= row["bytes_total"]
    assert row["bytes_fetched"] > 0
    assert 0 < row["misses"] <= row["faults"]
    assert 0 < row["fault_median_ms"] <= row["fault_p99_ms"] <= row["stalled_ms"]
    assert hotstart("mount", "shell:v1", target).status == 102
    hotstart.ok("agent", "stop")
    assert (target / "bin/busybox").stat().st_size > 0
    hotstart.ok("agent", "start", "--filler", filler)
    hotstart.ok("umount", target)
    assert not target.is_mount()
    assert hotstart("umount", target).status == 101


def test_a_pulled_image_starts_without_its_store(hotstart, library):
    pulled = hotstart.ok("pull", "shell:v1", "--json").document
    assert pulled["fetched_bytes"] > 0
    assert hotstart.ok("pull", "shell:v1", "--json").document["fetched_bytes"] == 0


def test_warm_fetches_what_a_first_start_touched_and_no_more(hotstart, other, port):
    assert hotstart("warm", "empty:v1").status == 101  # nobody can have started it
    serve(hotstart, port)
    hotstart.ok("stop", "web")
    whole = hotstart.ok("inspect", "server:v1", "--json").document
    warmed = other.ok("warm", "server:v1", "--json").document
    assert 0 < warmed["size_bytes"] < sum(device["size_bytes"] for device in whole["devices"])
    assert warmed["fetched_bytes"] > 0
    again = other.ok("warm", "server:v1")
    assert "0 B fetched" in again.err
    # The rest is absent still, and the start needs next to nothing of it.
    words = ("run", "server:v1", "-d", "-p", f"{port}:8000", *READY, "--no-background-fill")
    started = other.ok(*words, "--json").document
    assert started["fetched_bytes"] < warmed["fetched_bytes"] / 4
    assert other.ok("pull", "server:v1", "--json").document["fetched_bytes"] > 0


@requires("criu", "userfaultfd_events")
def test_warm_fetches_the_start_bundle_of_a_snapshot(hotstart, other, port, scratch):
    serve(hotstart, port)
    golden = scratch / "golden.json"
    golden.write_text(json.dumps({"path": "/", "port": 8000}))
    hotstart.ok("snapshot", "web", "-t", "warmed:v1", "--golden", golden, "--stateful")
    # The other root trusts another key, so it takes chunks, each verified, and not the bundle.
    warmed = other.ok("warm", "warmed:v1", "--json").document
    assert warmed["fetched_bytes"] > 0
    assert "0 B fetched" in other.ok("warm", "warmed:v1").err
    pulled = other.ok("pull", "warmed:v1", "--json").document
    assert pulled["fetched_bytes"] > 0
    assert pulled["size_bytes"] > warmed["size_bytes"] > 0


def test_logs_follow_until_the_end(hotstart):
    hotstart.ok("run", "shell:v1", "-d", "--name", "talker", "--",
                "/bin/sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")  # fmt: skip
    assert hotstart.ok("logs", "talker", "-f").out == "1\n2\n3\n"
    assert hotstart.ok("logs", "talker", "--tail", "1").out == "3\n"


@requires("criu", "userfaultfd_events")
def test_a_snapshot_of_a_limited_replica_does_not_stand_for_an_unlimited_one(hotstart, port):
    limit = ("--memory", "512m")
    serve(hotstart, port)
    plain = hotstart.ok("snapshot", "web", "-t", "plain:v1", "--stateless", "--json").document
    # What was restored for a limited run stands for limited runs from then on.
    assert serve(hotstart, port, *limit).document["container"]["digest"] == plain["digest"]
    limited = hotstart.ok("snapshot", "web", "-t", "limited:v1", "--stateless", "--json").document
    assert serve(hotstart, port).document["container"]["digest"] == plain["digest"]
    hotstart.ok("stop", "web")
    assert serve(hotstart, port, *limit).document["container"]["digest"] == limited["digest"]


@requires("criu", "userfaultfd_events")
@pytest.mark.parametrize("moment", ["my @criu", "exec { $criu"], ids=["before_it_joins", "in_it"])
def test_a_restore_that_is_stopped_comes_to_nothing(hotstart, port, scratch, moment):
    """CRIU is held before it is in the container's control group, or when it is."""
    serve(hotstart, port)
    hotstart.ok("snapshot", "web", "-t", "quick:v1", "--stateless")
    hold, begun, front = scratch / "hold", scratch / "begun", hotstart.root / "criu" / "criu"
    hold.touch()
    wait = f"open(my $b, '>', '{begun}'); select(undef, undef, undef, 0.05) while -e '{hold}'; "
    front.write_text(front.read_text().replace(moment, wait + moment, 1))
    restoring = hotstart.start("restore", "quick:v1", "-d", "--name", "a", "-p", f"{port}:8000")
    eventually(begun.exists, "the restore")
    stopping = hotstart.start("stop", "a")
    log = hotstart.root / "agent.log"
    eventually(lambda: "start_stopped" in log.read_text(), "the stop")
    hold.unlink()
    _, said = stopping.communicate(timeout=20)
    assert stopping.returncode == 0, said
    _, said = restoring.communicate(timeout=20)
    assert restoring.returncode == 130, said
    assert "it was stopped while it started" in said
    assert "starts cold" not in said
    hotstart.nothing_runs()
    assert hotstart.names() == ["web"]
    assert not answers(port)


def test_a_cold_start_that_is_stopped_comes_to_nothing(hotstart):
    starting = hotstart.start(
        "run", "shell:v1", "-d", "--name", "slow", "--ready", "tcp:80", "--", *SLEEP
    )
    eventually((hotstart.root / "containers/slow/container.pid").exists, "the first process")
    hotstart.ok("stop", "slow")
    _, said = starting.communicate(timeout=20)
    assert starting.returncode == 130
    assert "it was stopped while it started" in said
    assert hotstart.names() == []
