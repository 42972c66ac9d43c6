"""Errors keep their kind, sentence and hint across the wire, and each has one code."""

import grpc
import pytest

from agent.proto.generated import hotstart_pb2 as pb
from agent.status import (
    DETAIL_KEY,
    MESSAGE_LIMIT,
    TABLE,
    AgentFailed,
    CallCancelled,
    ContainerNotReady,
    describe,
    rebuild,
    row_of,
)
from hotstart.core import errors
from hotstart.core.run import CommandFailed


class Broken(grpc.RpcError):
    """What a stub raises, as far as rebuild looks at it."""

    def __init__(self, code, metadata=(), details="words"):
        self._code, self._metadata, self._details = code, metadata, details

    def code(self):
        return self._code

    def trailing_metadata(self):
        return self._metadata

    def details(self):
        return self._details


def over_the_wire(error):
    code, detail = describe(error)
    return rebuild(Broken(code, ((DETAIL_KEY, detail.SerializeToString()),)), "here")


@pytest.mark.parametrize(
    "error_class", [errors.UserError, errors.NotFound, errors.Conflict], ids=lambda c: c.__name__
)
def test_hints_survive(error_class):
    back = over_the_wire(error_class("a sentence", "a hint"))
    assert (type(back), str(back), back.hint) == (error_class, "a sentence", "a hint")


@pytest.mark.parametrize(
    "error_class",
    [errors.Unavailable, errors.IntegrityError, errors.Unsupported, ContainerNotReady],
    ids=lambda c: c.__name__,
)
def test_other_kinds_survive(error_class):
    back = over_the_wire(error_class("a sentence"))
    assert (type(back), str(back)) == (error_class, "a sentence")


def test_the_nearest_class_counts():
    class NoSuchPort(errors.Conflict):
        pass

    assert row_of(NoSuchPort("taken")).kind == "conflict"
    assert row_of(CommandFailed(["runc"], 1, "no")).kind == "failed"


def test_a_bug_is_named_as_one():
    code, detail = describe(ZeroDivisionError("division by zero"))
    assert code is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError: division by zero; this is a fault" in detail.message
    assert isinstance(over_the_wire(ZeroDivisionError("x")), AgentFailed)


def test_every_kind_has_its_own_code():
    codes = [row.code for row in TABLE]
    assert len(set(codes)) == len(codes)
    assert grpc.StatusCode.INTERNAL not in codes


def test_the_end_of_a_long_message_travels():
    _, detail = describe(errors.UserError("x" * MESSAGE_LIMIT + "the last words"))
    assert detail.message.endswith("the last words")
    assert len(detail.message) == MESSAGE_LIMIT


def test_a_silent_socket_is_unavailable():
    silent = Broken(grpc.StatusCode.UNAVAILABLE, details="failed to connect to all addresses")
    back = rebuild(silent, "/r/agent.sock")
    assert isinstance(back, errors.Unavailable)
    assert "no answer from the agent at /r/agent.sock" in str(back)


def test_an_agent_that_dies_during_a_call_is_named_as_such():
    back = rebuild(Broken(grpc.StatusCode.UNAVAILABLE, details="Socket closed"), "/r/agent.sock")
    assert isinstance(back, errors.Unavailable)
    assert "/r/agent.sock ended during the call" in str(back)


def test_a_cancelled_call_says_so():
    assert isinstance(rebuild(Broken(grpc.StatusCode.CANCELLED), "x"), CallCancelled)


def test_a_detail_of_a_newer_agent_is_still_an_error():
    detail = pb.ErrorDetail(kind="of tomorrow", message="a sentence")
    error = Broken(grpc.StatusCode.UNKNOWN, ((DETAIL_KEY, detail.SerializeToString()),))
    assert str(rebuild(error, "x")) == "a sentence"
