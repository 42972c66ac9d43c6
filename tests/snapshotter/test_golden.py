"""Golden requests: strict files, and comparisons that say what differs."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.errors import UserError
from snapshotter.golden import (
    Answer,
    Expectation,
    GoldenInvalid,
    GoldenRequest,
    compare,
    load,
    parse,
)

JSON = Expectation("json")


def answer(value, status=200):
    return Answer(status, json.dumps(value).encode())


def test_an_http_request_file_is_read_whole(tmp_path):
    file = tmp_path / "golden.json"
    file.write_text(
        json.dumps(
            {
                "method": "post",
                "path": "/embed",
                "port": 8000,
                "headers": {"Accept": "application/json"},
                "body": {"text": "hello"},
                "expect": {"paths": ["vector"], "tolerance": 0.001},
            }
        )
    )
    request = load(file)
    assert request == GoldenRequest(
        "POST",
        "/embed",
        8000,
        {"Accept": "application/json"},
        b'{"text": "hello"}',
        (),
        Expectation("json", ("vector",), 0.001),
    )


def test_an_exec_request_takes_argv_words():
    request = parse(b'{"exec": ["redis-cli", "get", ""]}', "x")
    assert request.exec == ("redis-cli", "get", "")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"path": "/"}', "port is missing"),
        ('{"port": 0}', "port"),
        ('{"port": true}', "port"),
        ('{"port": 1, "path": "x"}', "begins with /"),
        ('{"port": 1, "path": "/a\\r\\nX: y"}', "path is"),
        ('{"port": 1, "method": "GET / HTTP"}', "method is"),
        ('{"port": 1, "headers": {"A": "b\\r\\nC: d"}}', "one-line"),
        ('{"port": 1, "path": "/\u00e9"}', "only ASCII"),
        ('{"port": 1, "path": "/a b"}', "only ASCII"),
        ('{"port": 1, "method": "G\u00c9T"}', "method is"),
        ('{"port": 1, "headers": {"A": "\u6771"}}', "values Latin-1"),
        ('{"port": 1, "headers": {"\u00e9": "b"}}', "names ASCII"),
        ('{"port": 1, "headers": {"": "b"}}', "names ASCII"),
        ('{"port": 1, "body": "\\ud800"}', "surrogate"),
        ('{"exec": ["\\ud800"]}', "surrogate"),
        ('{"exec": ["a\\u0000"]}', "null character"),
        ('{"port": 1, "expect": {"paths": ["\\udfff"]}}', "surrogate"),
        ('{"port": 1, "surprise": 1}', "unknown keys surprise"),
        ('{"exec": []}', "list of words"),
        ('{"exec": ["a"], "port": 1}', "exec goes with expect only"),
        ('{"port": 1, "expect": {"mode": "fuzzy"}}', "expected exact or json"),
        ('{"port": 1, "expect": {"mode": "exact", "tolerance": 1}}', "need mode json"),
        ('{"port": 1, "expect": {"tolerance": -1}}', "not a number >= 0"),
        ('{"port": 1, "expect": {"tolerance": NaN}}', "not a number >= 0"),
    ],
)
def test_a_wrong_request_file_is_refused_with_what_is_wrong(document, complaint):
    with pytest.raises(GoldenInvalid, match=complaint):
        parse(document.encode(), "golden.json")


def test_text_beyond_ascii_is_sent_where_http_has_room_for_it():
    document = {"port": 1, "headers": {"A": "\u00e9"}, "body": "\u6771 \U0001f600"}
    request = parse(json.dumps(document).encode(), "golden.json")
    assert request.headers == {"A": "\u00e9"}
    assert request.body.decode() == document["body"]


def test_a_missing_request_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="can't read the golden request"):
        load(tmp_path / "none.json")


@given(st.binary(max_size=200))
@settings(derandomize=True, max_examples=200)
def test_arbitrary_bytes_are_refused(content):
    with pytest.raises(GoldenInvalid):
        parse(content, "x")


@given(st.binary(max_size=8), st.integers(0, 50))
@settings(derandomize=True, max_examples=200)
def test_a_damaged_request_file_is_refused_or_a_request_that_can_be_sent(noise, at):
    good = b'{"port": 8000, "path": "/a", "headers": {"A": "b"}}'
    with suppress(GoldenInvalid):
        request = parse(good[:at] + noise + good[at + len(noise) :], "x")
        assert 1 <= request.port <= 65535
        assert request.path.startswith("/")
        assert not any("\n" in text for pair in request.headers.items() for text in pair)


def test_exact_answers_compare_byte_by_byte_and_name_the_first_difference():
    expected = Answer(200, b"same text")
    assert compare(Expectation(), expected, Answer(200, b"same text")) is None
    reason = compare(Expectation(), expected, Answer(200, b"same Text"))
    assert reason is not None
    assert "byte 5" in reason


def test_another_status_is_a_difference_whatever_the_body():
    assert compare(JSON, answer({}), answer({}, 500)) == "status is 500, expected 200"


def test_numbers_within_the_tolerance_are_equal_and_no_further():
    expect = Expectation("json", ("v",), 0.01)
    assert compare(expect, answer({"v": [1.0, 2]}), answer({"v": [1.009, 2.0], "ms": 4})) is None
    assert (
        compare(expect, answer({"v": [1.0]}), answer({"v": [1.02]})) == "v.0 is 1.02, expected 1.0"
    )


@pytest.mark.parametrize(
    ("wanted", "found", "reason"),
    [
        ({"a": 1}, {"a": True}, "a is True"),
        ({"a": [1, 2]}, {"a": [1]}, "length of a"),
        ({"a": 1}, {"b": 1}, "keys of the document"),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, "a.b is y"),
        ({"a": None}, {"a": 0}, "a is 0"),
        ({"a": 1.0}, {"a": float("nan")}, "a is nan"),
    ],
)
def test_json_answers_differ_with_the_place_named(wanted, found, reason):
    assert reason in (compare(JSON, answer(wanted), answer(found)) or "")


def test_a_path_that_is_missing_is_a_difference():
    expect = Expectation("json", ("a.0.b",))
    assert "nothing at 'a.0.b'" in (
        compare(expect, answer({"a": [{"b": 1}]}), answer({"a": []})) or ""
    )


def test_an_answer_that_is_not_json_is_a_difference():
    assert "not JSON" in (compare(JSON, answer(1), Answer(200, b"oops")) or "")


def test_the_hint_names_a_page_that_shows_golden_requests():
    with pytest.raises(GoldenInvalid) as caught:
        parse(b"[]", "file")
    page = Path(__file__).parents[2] / caught.value.hint.split()[0]
    assert "--golden FILE" in page.read_text()
