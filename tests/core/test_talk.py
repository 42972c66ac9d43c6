"""Log lines, progress lines and canonical documents."""

import json
import logging
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core import canonical_json
from hotstart.core.log import get_logger
from hotstart.core.progress import LineSink, Progress
from hotstart.core.run import run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_an_event_is_one_line_of_fields(caplog):
    with caplog.at_level(logging.INFO):
        get_logger("test").info("cold_start", ms=1.234, name="a b", empty="", n=3)
    assert caplog.messages == ['cold_start ms=1.23 name="a b" empty="" n=3']


def test_a_newline_in_a_field_never_makes_a_second_line(caplog):
    with caplog.at_level(logging.INFO):
        get_logger("test").warning("event", text="a\nb")
    assert caplog.messages == ['event text="a\\nb"']


def test_a_task_is_told_at_intervals_and_its_end_always():
    lines = []
    sink = LineSink(lines.append, interval_s=3600)
    for done in (1, 2, 3):
        sink.update(Progress("build", done, 3))
    sink.update(Progress("build", 3, 3, finished=True))
    assert lines == ["build: 1 of 3 bytes\n", "build: 3 of 3 bytes done\n"]


@settings(derandomize=True)
@given(JSON)
def test_equal_documents_have_equal_bytes_and_nothing_is_lost(value):
    encoded = canonical_json.encode(value)
    assert json.loads(encoded) == value
    assert canonical_json.encode(json.loads(encoded)) == encoded


def test_the_order_of_keys_does_not_matter():
    assert canonical_json.encode({"b": 1, "a": 2}) == b'{"a":2,"b":1}'
    assert canonical_json.encode({"a": 2, "b": 1}) == b'{"a":2,"b":1}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_number_for_is_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json.encode([value])


def test_lines_of_ours_go_nowhere_until_a_main_module_says_where():
    """A command's stderr is for sentences."""
    program = (
        "from hotstart.core.log import configure, get_logger\n"
        "get_logger('hotstart.store').warning('first')\n"
        "configure()\n"
        "get_logger('hotstart.store').warning('second')\n"
    )
    said = run([sys.executable, "-c", program]).stderr
    assert b"first" not in said
    assert b"second" in said
