"""Remote calls to calls of the node: changes of clothes, and errors through the one table.

No logic lives here. Methods run in gRPC's thread pool. A long call runs in a thread of its own
(agent.long_call), so that a caller who goes away cancels it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import grpc

from agent import convert
from agent.calls import Calls
from agent.long_call import LongCall
from agent.proto.generated import hotstart_pb2 as pb
from agent.status import DETAIL_KEY, describe
from agent.values import DEFAULT_GRACE_S, FallbackRule, StartReport, Statefulness
from hotstart.core.log import get_logger
from hotstart.core.progress import Progress

log = get_logger(__name__)

Message: TypeAlias = Any
"""A generated message: the compiler's output carries no types of ours."""
Result = TypeVar("Result")

_DETAILS_LIMIT = 512  # characters of grpc-message; the whole sentence is in the trailing metadata

_FALLBACK: dict[int, FallbackRule] = {
    pb.FALLBACK_DEFAULT: "default",
    pb.FALLBACK_ALLOW: "allow",
    pb.FALLBACK_FORBID: "forbid",
}
_STATEFULNESS: dict[int, Statefulness] = {
    pb.STATEFULNESS_PROVE: "prove",
    pb.STATEFULNESS_STATELESS: "stateless",
    pb.STATEFULNESS_STATEFUL: "stateful",
}


class Service:
    """The servicer of ``hotstart.v1.Agent`` for one node."""

    def __init__(self, node: Calls, end: Callable[[], None]) -> None:
        """``end`` is called once a Shutdown has been answered."""
        self._node = node
        self._end = end

    def Run(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """Start a container from an image."""
        call: LongCall[Message] = LongCall()
        yield from _stream(
            context,
            call,
            pb.StartEvent,
            lambda: _started(
                call,
                self._node.run(
                    request.store_url,
                    request.reference,
                    spec=convert.spec_from(request.options),
                    no_snapshot=request.no_snapshot,
                    background_fill=not request.no_background_fill,
                    call=call,
                ),
            ),
        )

    def Restore(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """Start a container from a snapshot."""
        call: LongCall[Message] = LongCall()
        yield from _stream(
            context,
            call,
            pb.StartEvent,
            lambda: _started(
                call,
                self._node.restore(
                    request.store_url,
                    request.reference,
                    spec=convert.spec_from(request.options),
                    fallback=_FALLBACK[request.fallback],
                    trust_unsigned=request.trust_unsigned,
                    allow_clones=request.allow_clones,
                    background_fill=not request.no_background_fill,
                    call=call,
                ),
            ),
        )

    def Snapshot(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """Capture a running container."""
        call: LongCall[Message] = LongCall()
        yield from _stream(
            context,
            call,
            pb.SnapshotEvent,
            lambda: convert.snapshot_to(
                self._node.snapshot(
                    request.store_url,
                    request.container,
                    reference=request.reference,
                    goldens=tuple(request.goldens),
                    statefulness=_STATEFULNESS[request.statefulness],
                    leave_running=request.leave_running,
                    call=call,
                )
            ),
        )

    def Mount(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """Mount an image at a directory."""
        call: LongCall[Message] = LongCall()
        yield from _stream(
            context,
            call,
            pb.MountEvent,
            lambda: convert.mount_to(
                self._node.mount(
                    request.store_url,
                    request.reference,
                    target=request.target,
                    filler=request.filler,
                    read_ahead_kib=request.read_ahead_kib,
                    call=call,
                )
            ),
        )

    def Pull(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """Make everything of a reference local."""
        call: LongCall[Message] = LongCall()
        yield from _stream(
            context,
            call,
            pb.PullEvent,
            lambda: convert.pull_to(
                self._node.pull(
                    request.store_url,
                    request.reference,
                    working_set=request.working_set,
                    call=call,
                )
            ),
        )

    def Exec(self, requests: Iterator[Message], context: grpc.ServicerContext) -> Iterator[Message]:
        """Run a program in a container, its three streams passed through."""
        call: LongCall[int] = LongCall()

        def output(stream: str, data: bytes) -> None:
            event = pb.ExecEvent()
            setattr(event, stream, data)
            call.emit(event)

        def work() -> int:
            wanted = convert.exec_from(next(requests).start)
            stdin = _stdin_of(requests)
            status: int = self._node.exec(wanted, stdin=stdin, output=output, call=call)
            return status

        context.add_callback(call.cancel)
        call.start(work)
        for event in call.events():
            if isinstance(event, pb.ExecEvent):
                yield event
        yield pb.ExecEvent(exit_status=_answer(context, call.result))

    def Logs(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        """Send what a container wrote."""
        pieces = _answer(
            context,
            lambda: self._node.logs(
                request.container,
                follow=request.follow,
                tail=request.tail,
                alive=context.is_active,
            ),
        )
        while True:
            piece = _answer(context, lambda: next(pieces, None))
            if piece is None:
                return
            yield pb.LogChunk(stream=piece.stream, data=piece.data, time_ns=piece.time_ns)

    def Stop(self, request: Message, context: grpc.ServicerContext) -> Message:
        """End a container."""
        grace_s = request.grace_s if request.HasField("grace_s") else DEFAULT_GRACE_S
        view = _answer(context, lambda: self._node.stop(request.container, grace_s=grace_s))
        return pb.StopResult(container=convert.container_to(view))

    def Wait(self, request: Message, context: grpc.ServicerContext) -> Message:
        """Block until a container has ended."""
        view = _answer(context, lambda: self._node.wait(request.container, alive=context.is_active))
        return pb.WaitResult(container=convert.container_to(view))

    def Remove(self, request: Message, context: grpc.ServicerContext) -> Message:
        """Delete an ended container."""
        _answer(context, lambda: self._node.remove(request.container))
        return pb.RemoveResult()

    def List(self, request: Message, context: grpc.ServicerContext) -> Message:
        """List containers."""
        views = _answer(context, self._node.containers)
        return pb.ListResult(containers=[convert.container_to(view) for view in views])

    def ListMounts(self, request: Message, context: grpc.ServicerContext) -> Message:
        """List mounted images."""
        views = _answer(context, self._node.mounts)
        return pb.ListMountsResult(mounts=[convert.mount_to(view) for view in views])

    def Umount(self, request: Message, context: grpc.ServicerContext) -> Message:
        """Undo a mount."""
        _answer(context, lambda: self._node.umount(request.target))
        return pb.UmountResult()

    def Status(self, request: Message, context: grpc.ServicerContext) -> Message:
        """Tell about the agent."""
        return convert.status_to(_answer(context, self._node.status))

    def Shutdown(self, request: Message, context: grpc.ServicerContext) -> Message:
        """End the agent, and with ``all`` everything it owns."""
        stopped = _answer(context, lambda: self._node.end_everything() if request.all else 0)
        context.add_callback(self._end)
        return pb.ShutdownResult(stopped_containers=stopped)


def _answer(context: grpc.ServicerContext, work: Callable[[], Result]) -> Result:
    """Do the work; end the call with the table's code if it fails."""
    try:
        return work()
    except Exception as err:  # every failure has a row, the last one is for bugs
        code, detail = describe(err)
        if code is grpc.StatusCode.INTERNAL:
            trace = traceback.format_exc()
            log.error("call_broken", error=detail.error, trace=trace)  # noqa: TRY400  # as a field
        else:
            log.info("call_failed", kind=detail.kind, error=detail.error, message=detail.message)
        context.set_trailing_metadata(((DETAIL_KEY, detail.SerializeToString()),))
        context.abort(code, detail.message[:_DETAILS_LIMIT])
        raise AssertionError("abort does not return") from err


def _started(call: LongCall[Message], report: StartReport) -> Message:
    """Return a start's message, with the moment at which the agent had the request."""
    return convert.start_to(replace(report, received_s=call.started_s))


def _stream(
    context: grpc.ServicerContext,
    call: LongCall[Message],
    event_class: Callable[..., Message],
    work: Callable[[], Message],
) -> Iterator[Message]:
    """Run ``work`` and yield its events, then its result."""
    context.add_callback(call.cancel)
    call.start(work)
    for event in call.events():
        if isinstance(event, Progress):
            yield event_class(progress=convert.progress_to(event))
        elif isinstance(event, str):
            yield event_class(notice=pb.Notice(text=event))
    yield event_class(result=_answer(context, call.result))


def _stdin_of(requests: Iterator[Message]) -> Iterator[bytes]:
    """Yield what the caller sends as standard input; ends with it, or when the caller leaves."""
    try:
        for request in requests:
            if request.WhichOneof("message") != "stdin":
                return
            yield request.stdin
    except grpc.RpcError:
        return
