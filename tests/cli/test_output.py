"""What people and scripts read: tables, sizes, JSON of our values, bars on a terminal."""

import json

import pytest

from agent.values import MountView
from cli import container_cmd, mount_cmd, output
from cli.progress_bars import BarSink, amount_of
from hotstart.core.digest import Digest
from hotstart.core.errors import Conflict
from hotstart.core.progress import Progress
from runtime.container_spec import PortMapping
from tests.agent.fake_node import view


def test_columns_line_up():
    assert output.table(("A", "LONG"), [("word", 1), ("x", 22)]) == "A     LONG\nword  1\nx     22"


def test_sizes_read_well():
    sizes = [0, 1023, 1536, 5 << 20, 3 << 30, 7 << 40]
    assert [output.size(count) for count in sizes] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 GiB", "7.0 TiB",
    ]  # fmt: skip


def test_values_have_a_json_form():
    digest = Digest.of(b"")
    value = {"port": PortMapping(1, 2), "digest": digest, "data": b"\xff", "many": (1, None)}
    assert output.plain(value) == {
        "port": {"host": 1, "container": 2, "address": ""},
        "digest": str(digest),
        "data": "\N{REPLACEMENT CHARACTER}",
        "many": [1, None],
    }


def test_an_error_is_a_sentence_with_its_hint_and_a_document(capsys):
    code = output.report_error(Conflict("port 80 is taken", "choose another"), as_json=True)
    out, err = capsys.readouterr()
    assert err == "hotstart: port 80 is taken; choose another\n"
    assert json.loads(out)["error"] == {
        "code": code,
        "kind": "conflict",
        "class": "Conflict",
        "message": "port 80 is taken",
        "hint": "choose another",
    }


def test_amounts_have_units():
    assert amount_of(Progress("pull", 1536, 3072)) == "1.5 KiB of 3.0 KiB"
    assert amount_of(Progress("pull", 10, None)) == "10 B"
    assert amount_of(Progress("rehearse", 1, 2, "requests")) == "1 of 2 requests"


def test_bars_take_every_kind_of_event():
    with BarSink() as bars:
        bars.update(Progress("pull", 1, None))
        bars.update(Progress("pull", 2, 2, finished=True))
        bars.update(Progress("rehearse", 1, 2, "requests"))
        shown = [(bar.description, bar.completed, bar.total) for bar in bars._bars.tasks]
    assert shown == [("pull", 2, 2), ("rehearse", 1, 2)]


def test_plain_lines_where_there_is_no_terminal(capsys):
    with output.progress() as sink:
        sink.update(Progress("pull", 2, 2, finished=True))
    assert capsys.readouterr().err == "pull: 2 of 2 bytes done\n"


def test_a_mount_that_nobody_has_named_is_shown_by_its_digest():
    view = MountView("", "", "sha256:" + "a" * 64, "fuse", 1, 100, 50)
    assert mount_cmd._row(view)[:2] == ("-", "sha256:aaaaaaaaaaaa")


@pytest.mark.parametrize(("state", "ports"), [("running", "127.0.0.1:8080->80"), ("stopped", "-")])
def test_ports_are_shown_as_long_as_they_are_held(state, ports):
    assert container_cmd._row(view("web", state=state))[-1] == ports
