"""Prometheus' view of an agent: the numbers of `mounts`, at the address that was asked for."""

import os
import signal
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.test_metrics import COUNTED
from tests.e2e.conftest import eventually, free_port
from tests.requires import requires

pytestmark = [pytest.mark.e2e, requires("erofs", "fanotify_pre_content")]


def scrape(url):
    """Samples by name and reference, as Prometheus reads them."""
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # http
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("reference", sample.labels.get("worker"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def status(hotstart):
    return hotstart.ok("agent", "status", "--json").document


def at_rest(hotstart, url):
    """The only mount, and a scrape of the same moment; None while something is still fetched."""
    (before,) = hotstart.ok("mounts", "--json").document["mounts"]
    told = scrape(url)
    return (
        (before, told) if hotstart.ok("mounts", "--json").document["mounts"] == [before] else None
    )


@pytest.fixture
def served(hotstart, scratch):
    """An agent with metrics, a mount of which a file was read, and the URL."""
    hotstart.ok("agent", "start", "--metrics", "127.0.0.1:0")
    (scratch / "mnt").mkdir()
    hotstart.ok("mount", "shell:v1", scratch / "mnt")
    content = (scratch / "mnt" / "bin/busybox").read_bytes()
    assert content == Path("/bin/busybox").read_bytes()
    return status(hotstart)["metrics_url"]


def test_a_scrape_has_the_numbers_of_mounts_and_ends_with_the_mount(hotstart, scratch, served):
    assert f"metrics     {served}\n" in hotstart.ok("agent", "status").out
    row, told = eventually(lambda: at_rest(hotstart, served), "the end of read-ahead")
    assert {name: told[sample, "shell:v1"] for name, sample in COUNTED.items()} == {
        name: row[name] for name in COUNTED
    }
    wait = "hotstart_mount_fault_wait_seconds"
    assert told[f"{wait}_count", "shell:v1"] == row["misses"] > 0
    assert told[f"{wait}_sum", "shell:v1"] == row["stalled_ms"] / 1000
    hotstart.ok("umount", scratch / "mnt")
    left = scrape(served)
    assert not [name for name, label in left if label == "shell:v1"]
    assert left["hotstart_mounts", None] == 0


def test_a_scrape_is_answered_whatever_dies(hotstart, served):
    worker = next(one["pid"] for one in status(hotstart)["workers"] if one["kind"] == "fill")
    os.kill(worker, signal.SIGSTOP)
    stopped = scrape(served)
    os.kill(worker, signal.SIGKILL)
    assert stopped["hotstart_fill_worker_up", None] == 0
    assert stopped["hotstart_mount_size_bytes", "shell:v1"] > 0
    assert ("hotstart_mount_faults_total", "shell:v1") not in stopped

    def back():
        told = scrape(served)
        return told if told["hotstart_fill_worker_up", None] else None

    told = eventually(back, "a successor of the worker")
    assert told["hotstart_worker_restarts_total", "fill"] == 1
    keeper = next(one["pid"] for one in status(hotstart)["workers"] if one["kind"] == "keeper")
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: scrape(served)["hotstart_keeper_restarts_total", None] == 1, "a new keeper")
    assert eventually(back, "workers of the new keeper")["hotstart_keeper_up", None] == 1


def test_an_address_is_one_agents(hotstart, other, served):
    address = served.removeprefix("http://").removesuffix("/metrics")
    for command in ("start", "run"):
        refused = other("agent", command, "--metrics", address, "--json")
        assert refused.status == 102
        assert f"{address}: another program listens there" in refused.error["message"]
    hotstart.ok("agent", "start", "--metrics", address)  # it is there
    hotstart.ok("agent", "start")
    elsewhere = hotstart("agent", "start", "--metrics", f"127.0.0.1:{free_port()}", "--json")
    assert elsewhere.status == 102
    assert f"serves metrics at {served}" in elsewhere.error["message"]
    hotstart.ok("agent", "stop")
    hotstart.ok("agent", "start", "--metrics", address)  # free again at once
    assert scrape(served)["hotstart_mounts", None] == 1


def test_metrics_are_off_unless_asked_for(hotstart, other):
    hotstart.ok("agent", "start")
    assert status(hotstart)["metrics_url"] == ""
    assert "metrics     off\n" in hotstart.ok("agent", "status").out
    other.env["HOTSTART_METRICS"] = f"127.0.0.1:{free_port()}"
    other.ok("agent", "start")
    assert other.env["HOTSTART_METRICS"] in status(other)["metrics_url"]
    assert scrape(status(other)["metrics_url"])["hotstart_mounts", None] == 0
