"""Pinned objects: no byte of another version is ever taken for the listed one."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import StoreDenied, StoreUnavailable
from hotstart.store.format_errors import FormatVersionUnknown
from hotstart.store.object_list import PIECE_BYTES, ObjectList, ObjectListInvalid
from hotstart.store.pinned_object import ObjectChanged, ObjectGone, PinnedObject
from hotstart.store.s3_objects import PinnedObjects
from tests.store.answering_server import Answer, answering

PINNED = PinnedObject(0, "model.bin", "one", 10)


def span_of(etag, content=b"2345", size=10):
    headers = {
        "ETag": f'"{etag}"',
        "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT",
        "Content-Range": f"bytes 2-{1 + len(content)}/{size}",
    }
    return Answer(206, content, headers)


@pytest.fixture
def read(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")

    def read(answer):
        with answering(answer) as (endpoint, _):
            bucket = PinnedObjects(f"s3://bucket/p?endpoint={endpoint}")
            return bytes(bucket.read(PINNED, Span(2, 4)))

    return read


def test_the_listed_version_is_read(read):
    assert read(span_of("one")) == b"2345"


@pytest.mark.parametrize(
    "answer",
    [Answer(412), Answer(416), span_of("two"), span_of("one", size=11)],
    ids=["412", "416", "if-match ignored", "other size"],
)
def test_another_version_is_an_error_that_names_the_object(read, answer):
    with pytest.raises(ObjectChanged, match=r"'model\.bin' has changed since it was mounted"):
        read(answer)


def test_what_may_pass_is_told_from_what_does_not(read):
    with pytest.raises(ObjectGone, match=r"model\.bin"):
        read(Answer(404, b"<Error><Code>NoSuchKey</Code></Error>"))
    with pytest.raises(StoreDenied):
        read(Answer(403))
    for answer in (Answer(503), span_of("one", b"23")):
        with pytest.raises(StoreUnavailable):
            read(answer)


def sample():
    return ObjectList(
        "s3://bucket/p", [("b", "2", PIECE_BYTES + 1), ("a", "1", 5), ("\u00e9", "3", PAGE)]
    )


def test_pieces_cover_each_object_and_no_page_twice():
    listed = sample()
    pieces = list(listed.between(Span(0, listed.device_size)))
    assert [piece.number for piece in pieces] == list(range(listed.piece_count))
    position = 0
    for piece in pieces:
        assert piece.device_offset == position
        position += piece.length
    assert position == listed.device_size
    for page in range(listed.device_size // PAGE):
        (found,) = listed.between(Span(page * PAGE, PAGE))
        assert found.device_offset <= page * PAGE < found.device_offset + found.length


def test_a_list_survives_its_encoding_and_only_that():
    content = sample().encode()
    assert ObjectList.decode(content).encode() == content
    with pytest.raises(FormatVersionUnknown):
        ObjectList.decode(content.replace(b'"version":1', b'"version":2'))
    for wrong in (content[:-1], content + b" ", content.replace(b'"b"', b'"a"'), b"[]", b"{}"):
        with pytest.raises(ObjectListInvalid):
            ObjectList.decode(wrong)


@given(st.binary(max_size=80), st.integers(0, 400))
def test_no_bytes_raise_anything_else(noise, at):
    content = sample().encode()
    for damaged in (noise, content[:at] + noise + content[at + len(noise) :]):
        with contextlib.suppress(ObjectListInvalid, FormatVersionUnknown):
            assert ObjectList.decode(damaged).encode() == damaged
