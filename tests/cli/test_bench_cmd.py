"""``hotstart bench`` with a scripted run: where results go, and how the command ends."""

import json
import os
from pathlib import Path

import pytest

from agent import launch
from bench.samples import Sample, ratios, summarize
from bench.targets import outcomes
from cli import bench_cmd, bench_results
from cli import main as cli_main
from cli.settings import Settings


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.setattr(launch.os, "geteuid", lambda: 0)


def document(*, wrong=0):
    samples = [
        Sample(path="cold", round=number, ready_ms=9.0, wall_ms=9.0, answer_ok=number >= wrong)
        for number in range(5)
    ]
    summary = summarize(samples)
    result = {"summary": summary, "ratios": ratios(summary), "extra": {}}
    return result | {"targets": outcomes(result)}


@pytest.fixture
def bench(monkeypatch, capsys):
    """Run ``hotstart bench cold-start``; return status, output, errors, and how often it ran."""
    runs = []

    def call(*words, result=None):
        monkeypatch.setattr(
            bench_cmd, "run_cold_start", lambda *_: runs.append(1) or result or document()
        )
        status = cli_main.run(["bench", "cold-start", *map(str, words)], Settings())
        out, err = capsys.readouterr()
        return status, out, err.strip(), len(runs)

    return call


def test_the_document_is_written_and_the_table_shown(bench, tmp_path):
    status, out, err, _ = bench("--json", tmp_path / "result.json")
    assert (status, err) == (0, "")
    assert "First correct answer" in out
    assert json.loads((tmp_path / "result.json").read_text()) == document()


@pytest.mark.parametrize(
    ("option", "name"),
    [("--json", "no/such/file"), ("--json", "file/result"), ("--report", "file/report")],
)
def test_a_place_that_takes_no_result_is_refused_before_the_run(bench, tmp_path, option, name):
    (tmp_path / "file").touch()
    status, out, err, runs = bench(option, tmp_path / name)
    assert (status, out, runs) == (100, "", 0)
    assert err.count("\n") == 0
    assert f"{tmp_path / name}: the result cannot be written there" in err


def test_a_read_only_place_is_refused_before_the_run(bench, tmp_path, monkeypatch):
    # Root may write everywhere: what access(2) says of a read-only file system is scripted.
    monkeypatch.setattr(bench_results.os, "access", lambda path, _: Path(path) != tmp_path)
    for option in ("--json", "--report"):
        status, _, err, runs = bench(option, tmp_path / "x")
        assert (status, runs) == (100, 0)
        assert "read-only" in err
    assert os.listdir(tmp_path) == []


def test_a_report_needs_matplotlib_before_the_run(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_results, "find_spec", lambda _: None)
    status, _, err, runs = bench("--report", tmp_path / "report")
    assert (status, runs) == (105, 0)
    assert "matplotlib" in err


def test_the_table_is_shown_even_if_the_place_is_gone_after_the_run(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_cmd, "check_places", lambda *_: None)
    status, out, err, _ = bench("--json", tmp_path / "gone/result.json")
    assert status == 100
    assert "First correct answer" in out
    assert "No such file or directory" in err


def test_wrong_answers_end_the_command_with_an_error_and_are_all_told(bench, tmp_path):
    status, out, err, _ = bench("--json", tmp_path / "result.json", result=document(wrong=4))
    assert status == 107
    assert "1 (+4 failed)" in out
    assert "4 of 5 starts gave no correct answer: cold 4" in err
    assert json.loads((tmp_path / "result.json").read_text())["summary"]["cold"]["failed"] == 4


@pytest.mark.parametrize("scenario", ["cold-start", "fs"])
def test_a_user_who_is_not_root_is_told_in_one_sentence(scenario, monkeypatch, capsys):
    monkeypatch.setattr(launch.os, "geteuid", lambda: 1000)
    assert cli_main.run(["bench", scenario], Settings()) == 100
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "hotstart: hotstart bench needs root; run it as root, for example with sudo\n"
