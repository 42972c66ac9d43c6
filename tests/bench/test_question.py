import json

import pytest

from bench.question import AnswerUnusable, Question, vector_of

QUESTION = Question("hello").expecting([0.5, -0.25])


def test_a_vector_within_the_tolerance_is_accepted():
    assert QUESTION.accepts([0.5004, -0.2496])


@pytest.mark.parametrize(
    "vector", [[0.502, -0.25], [0.5], [0.5, -0.25, 0.0], [], [float("nan"), -0.25]]
)
def test_any_other_vector_is_wrong(vector):
    assert not QUESTION.accepts(vector)


def test_without_a_reference_every_vector_is_taken():
    assert Question("hello").accepts([1.0])


def test_a_question_survives_json():
    assert Question.from_dict(json.loads(json.dumps(QUESTION.as_dict()))) == QUESTION


def test_the_request_announces_exactly_its_body():
    head, _, body = Question("grüße").request().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"text": "grüße"}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"vector": 1}', b'{"vector": []}', b'{"vector": [NaN]}', b"\xff"]
)
def test_a_body_that_is_no_embedding_is_refused(body):
    with pytest.raises(AnswerUnusable):
        vector_of(body)


def test_a_vector_is_read_as_numbers():
    assert vector_of(b'{"vector": [1, -0.5]}') == (1.0, -0.5)
