"""Errors across the wire: the one table between our error classes and gRPC status codes.

The server looks up the nearest class of an error (`describe`), aborts the call with its code and
puts an ErrorDetail into the trailing metadata. The client reads that detail back and raises the
same kind of error with the same sentence and hint (`rebuild`). An error that no row knows is a bug
of ours: it becomes INTERNAL, and its traceback stays in the agent's log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from agent.proto.generated import hotstart_pb2 as pb
from hotstart.core.errors import (
    Conflict,
    HotstartError,
    IntegrityError,
    NotFound,
    Unavailable,
    Unsupported,
    UserError,
)

DETAIL_KEY = "hotstart-error-bin"
"""Trailing metadata key of the serialized ErrorDetail."""

MESSAGE_LIMIT = 16 * 1024
"""Characters of a message that travel; it is the end that counts (a container's last words)."""


class ContainerNotReady(HotstartError):
    """The container did not become ready in time; the message ends with its last log lines."""


class AgentFailed(HotstartError):
    """A step failed inside the agent that should not have; its log has more."""


class CallCancelled(HotstartError):
    """The call ended because its caller went away or was interrupted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of error: its name on the wire, its code, and the class the client raises.

    ``classes`` are names of classes, nearest first, so that the table need not import the packages
    that define them.
    """

    kind: str
    classes: tuple[str, ...]
    code: grpc.StatusCode
    build: Callable[[str, str], HotstartError]


def _plain(error_class: type[HotstartError]) -> Callable[[str, str], HotstartError]:
    """Build an error that has no hint of its own: the hint ends its sentence."""
    return lambda message, hint: error_class(f"{message}; {hint}" if hint else message)


TABLE = (
    Row("not_ready", ("NotReady", "ContainerNotReady", "GoldenUnanswered"),
        grpc.StatusCode.DEADLINE_EXCEEDED, _plain(ContainerNotReady)),
    Row("not_found", ("NotFound",), grpc.StatusCode.NOT_FOUND, NotFound),
    Row("conflict", ("Conflict",), grpc.StatusCode.ALREADY_EXISTS, Conflict),
    Row("user", ("UserError",), grpc.StatusCode.INVALID_ARGUMENT, UserError),
    Row("unavailable", ("Unavailable",), grpc.StatusCode.UNAVAILABLE, _plain(Unavailable)),
    Row("integrity", ("IntegrityError",), grpc.StatusCode.DATA_LOSS, _plain(IntegrityError)),
    Row("unsupported", ("Unsupported",), grpc.StatusCode.FAILED_PRECONDITION, _plain(Unsupported)),
    Row("cancelled", ("CallCancelled", "Cancelled"), grpc.StatusCode.CANCELLED,
        _plain(CallCancelled)),
    Row("failed", ("HotstartError",), grpc.StatusCode.ABORTED, _plain(AgentFailed)),
)  # fmt: skip

_BUG = Row("bug", (), grpc.StatusCode.INTERNAL, _plain(AgentFailed))
_BY_CLASS = {name: row for row in TABLE for name in row.classes}
_BY_KIND = {row.kind: row for row in (*TABLE, _BUG)}


def row_of(error: BaseException) -> Row:
    """Return the row of the nearest known class of ``error``."""
    for error_class in type(error).__mro__:
        if error_class.__name__ in _BY_CLASS:
            return _BY_CLASS[error_class.__name__]
    return _BUG


def describe(error: BaseException) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
    """Return what the server sends for ``error``."""
    row = row_of(error)
    message = str(error)[-MESSAGE_LIMIT:]
    if row is _BUG:
        message = f"{type(error).__name__}: {message}; this is a fault in the agent, see agent.log"
    detail = pb.ErrorDetail(
        kind=row.kind,
        error=type(error).__name__,
        message=message,
        hint=str(getattr(error, "hint", "")),
    )
    return row.code, detail


def rebuild(error: grpc.RpcError, where: str) -> HotstartError:
    """Return the error that the client raises for a failed call to the agent at ``where``."""
    call: Any = error  # what a stub raises is a grpc.Call too, which the type stubs do not know
    for key, value in call.trailing_metadata() or ():
        if key == DETAIL_KEY:
            detail = pb.ErrorDetail.FromString(value)
            return _BY_KIND.get(detail.kind, _BUG).build(detail.message, detail.hint)
    if call.code() is grpc.StatusCode.CANCELLED:
        return CallCancelled("the call was cancelled; what it had done is undone")
    if call.code() is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" not in str(call.details()):
            return Unavailable(
                f"the agent at {where} ended during the call ({call.details()}); what the call "
                "had begun may be there: see hotstart ps, and agent.log"
            )
        return Unavailable(f"no answer from the agent at {where}: {call.details()}")
    return AgentFailed(f"the agent at {where} failed the call: {call.details()}")
