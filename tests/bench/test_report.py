import io
import json
import re
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from bench.cold_start_options import ORDER
from bench.plots import median_phases, ready_plot
from bench.report import write_report
from bench.samples import Sample, ratios, summarize
from bench.tables import tables
from bench.targets import TARGETS, outcomes


def result(*failed, samples_each=5, **extra):
    """A result whose paths have so many samples; those in ``failed`` one more, a wrong answer."""
    samples = [
        Sample(
            path=path,
            round=number,
            ready_ms=ready + number,
            wall_ms=ready + number + 3,
            phases={"runc_ms": 30.0, "until_listening_ms": ready + number - 30},
            fetched_bytes=fetched,
        )
        for number in range(samples_each)
        for path, ready, fetched in (
            ("cold", 4000.0, 0),
            ("restore", 90.0, 0),
            ("criu-plain", 180.0, 0),
            ("restore-empty-node", 450.0, 60_000_000),
        )
    ]
    samples += [
        Sample(path=path, round=5, ready_ms=1.0, wall_ms=1.0, answer_ok=False) for path in failed
    ]
    summary = summarize(samples)
    document = {
        "scenario": "cold-start",
        "environment": {
            "kernel": "6.18",
            "cpu": "<fast> & small",
            "cpus": 2,
            "distribution": "Debian",
            "memory_bytes": 24 << 30,
            "file_system": "ext4",
            "commit": "abc",
            "command": ["hotstart", "bench", "cold-start"],
            "load_average_before": [0.1, 0.1, 0.1],
        },
        "link": {"round_trip_ms": 15},
        "samples": [sample.as_dict() for sample in samples],
        "summary": summary,
        "ratios": ratios(summary),
        "extra": extra,
    }
    return document | {"targets": outcomes(document)}


def verdicts(document):
    return {row["figure"]: row["met"] for row in document["targets"]}


def test_targets_are_judged_by_the_ratios_of_the_run():
    found = verdicts(result(warm_read_ratio=0.89, rebuild_upload_share=0.01))
    assert found["cold/restore"] is True
    assert found["restore/criu-plain"] is True
    assert found["warm_read_ratio"] is False
    assert found["rebuild_upload_share"] is True
    assert found["import_ratio"] is None


def test_a_target_is_missed_where_a_path_of_it_gave_a_wrong_answer():
    found = verdicts(result("restore", empty_node_fetched_share=0.1))
    assert (found["cold/restore"], found["restore/criu-plain"]) == (False, False)
    assert found["empty_node_fetched_share"] is True
    found = verdicts(result("restore-empty-node", empty_node_fetched_share=0.1))
    assert (found["cold/restore"], found["empty_node_fetched_share"]) == (True, False)


def test_a_target_is_missed_where_every_answer_of_a_path_was_wrong():
    document = result()
    document["summary"]["restore"] = {"n": 0, "median_ms": None, "p99_ms": None, "failed": 5}
    document["ratios"] = {}
    found = {row["figure"]: (row["met"], row["reason"]) for row in outcomes(document)}
    assert found["cold/restore"] == (False, "5 failed")
    assert found["hotstart-cold/cold"] == (None, "")


def test_fewer_than_five_samples_meet_no_target():
    document = result(samples_each=4, import_ratio=1.0, empty_node_fetched_share=0.1)
    found = {row["figure"]: (row["met"], row["reason"]) for row in document["targets"]}
    assert found["cold/restore"] == found["empty_node_fetched_share"] == (False, "n too small")
    assert found["import_ratio"] == (True, "")
    assert found["build_mb_per_s_per_core"] == (None, "")


def test_a_limit_itself_meets_at_least_and_at_most_but_not_below():
    met = {target.bound: target.met_by(target.limit) for target in TARGETS}
    assert met == {"at least": True, "at most": True, "below": False}


def text_of(document, width=140):
    console = Console(file=io.StringIO(), width=width)
    for table in tables(document, width):
        console.print(table)
    return console.file.getvalue()


def test_the_table_names_every_path_and_its_failures():
    text = text_of(result("restore"))
    assert "no (1 failed)" in text
    assert "4002 ms" in text
    assert "restore: 5 (+1 failed)" in text
    assert "43.5x cold" in text
    assert "60.0 MB" in text
    assert "not measured" in text


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_narrow_terminal_still_shows_every_column_whole(width):
    summary = {
        path: {"n": 5, "median_ms": 7387.0, "p99_ms": 7399.0, "median_wall_ms": 7402.0,
               "median_fetched_bytes": 552_200_000}
        for path in ORDER
    }  # fmt: skip
    summary["cold"]["failed"] = 2
    text = text_of(result() | {"summary": summary, "ratios": ratios(summary)}, width)
    assert "…" not in text
    # Names and gains may be folded, so the text is compared without blanks and by its parts.
    assert text.count("7387 ms") == len(ORDER)
    assert len(re.findall(r"7399 ms +5 +7402 ms +552\.2 MB", text)) == len(ORDER)
    assert re.search(r"median +p99 +n +command +fetched +gain", text)
    assert "1.0x" in text
    assert "pull-and-cold" in re.sub(r"\n *path.*", "", text)
    assert "restore-empty-node-unrecorded" in ("".join(line[:11].rstrip() for line in
        text.splitlines()) if width == 60 else text)  # fmt: skip
    assert all(word in text for word in ("wanted", "measured", "met"))


def test_small_phases_are_kept_together_as_other():
    sample = {"phases": {f"p{n}_ms": float(n) for n in range(10)}}
    phases = median_phases([sample])
    assert phases["other"] == 0 + 1 + 2
    assert sum(phases.values()) == sum(range(10))


def test_the_report_is_a_page_with_pictures_and_the_whole_document(tmp_path):
    document = result(build_mb_per_s_per_core=200.0)
    page = write_report(document, tmp_path / "new/report")
    text = page.read_text()
    assert "&lt;fast&gt; &amp; small" in text
    assert text.count("<svg") == 3
    assert "<?xml" not in text
    assert json.loads((page.parent / "result.json").read_text()) == document
    for name in ("ready.svg", "phases-1.svg", "phases-2.svg"):
        root = ET.parse(page.parent / name).getroot()  # noqa: S314 - our own picture
        assert root.tag.endswith("svg")


def test_the_same_result_gives_the_same_picture():
    assert ready_plot(result()) == ready_plot(result())


def test_a_result_without_any_good_sample_still_makes_a_page(tmp_path):
    document = result()
    document["samples"] = [s | {"answer_ok": False} for s in document["samples"]]
    document["summary"] = {"cold": {"n": 0, "median_ms": None, "p99_ms": None, "failed": 5}}
    document["ratios"] = {}
    text = write_report(document, tmp_path).read_text()
    assert text.count("<svg") == 1


def test_page_and_markdown_name_failures_and_what_they_make_of_targets(tmp_path):
    write_report(result("restore"), tmp_path)
    markdown = (tmp_path / "summary.md").read_text()
    assert "| `restore` | 92 ms | 94 ms | 5 (+1 failed) |" in markdown
    assert "| cold start over restore | at least 25 | 43.5 | no (1 failed) |" in markdown
    page = (tmp_path / "index.html").read_text()
    assert "5 (+1 failed)" in page
    assert '<td class="no">no (1 failed)</td>' in page


def test_the_markdown_names_command_conditions_and_every_path(tmp_path):
    write_report(result(), tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("    hotstart bench cold-start\n")
    assert "kernel 6.18, 2 cores of <fast> & small, 24 GiB, ext4" in text
    assert "| `restore` | 92 ms | 94 ms | 5 |  | 43.5x cold |" in text
    assert "| cold start over restore | at least 25 | 43.5 | yes |" in text
