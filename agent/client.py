"""The typed client of one agent: what the command line and the benchmark call.

A client is one channel over the agent's socket; close it or use it as a context manager. Calls may
come from several threads. Every failure is one of the roots of hotstart.core.errors (or
agent.status.ContainerNotReady), with the agent's own sentence. A call that is interrupted
(KeyboardInterrupt, or a dropped iterator) is cancelled, and the agent undoes what it has done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import grpc

from agent import convert
from agent.proto.generated import hotstart_pb2 as pb
from agent.proto.generated import hotstart_pb2_grpc as pb_grpc
from agent.status import AgentFailed, rebuild
from agent.values import (
    AgentStatus,
    ContainerView,
    ExecSpec,
    FallbackRule,
    FillerName,
    LogPiece,
    MountView,
    PullReport,
    SnapshotReport,
    StartReport,
    Statefulness,
)
from hotstart.core.errors import UserError
from hotstart.core.progress import NullSink, ProgressSink
from runtime.container_spec import ContainerSpec

CHANNEL_OPTIONS = (
    # Error details carry the container's last log lines; gRPC's own limit is 8 KiB.
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.absolute_max_metadata_size", 96 * 1024),
    # An agent that is starting is asked again at once; gRPC's own pauses begin at a second.
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
)

_SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path without the final zero, unix(7)

_FALLBACK = {
    "default": pb.FALLBACK_DEFAULT,
    "allow": pb.FALLBACK_ALLOW,
    "forbid": pb.FALLBACK_FORBID,
}
_STATEFULNESS = {
    "prove": pb.STATEFULNESS_PROVE,
    "stateless": pb.STATEFULNESS_STATELESS,
    "stateful": pb.STATEFULNESS_STATEFUL,
}

Notify: TypeAlias = Callable[[str], object]
Message: TypeAlias = Any
"""A generated message, call or method: the compiler's output carries no types of ours."""


def _drop(_text: str) -> None:
    """Take a notice that nobody wants to see."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a long call's progress and notices go."""

    progress: ProgressSink
    notify: Notify = _drop


SILENT = Listener(NullSink())


def socket_of(root: Path) -> Path:
    """Return the socket of the agent of ``root``. Raises UserError if its path is too long."""
    path = root / "agent.sock"
    if len(bytes(path)) > _SOCKET_PATH_LIMIT:
        raise UserError(
            f"{path}: a socket's path may have {_SOCKET_PATH_LIMIT} bytes at most",
            "choose a shorter --root",
        )
    return path


class AgentClient:
    """One channel to one agent. Connects at the first call."""

    def __init__(self, root: Path) -> None:
        self._where = socket_of(root)
        self._channel = grpc.insecure_channel(f"unix:{self._where}", options=CHANNEL_OPTIONS)
        self._stub: Message = pb_grpc.AgentStub(self._channel)

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._channel.close()

    def status(self, *, timeout_s: float | None = None) -> AgentStatus:
        """Return what the agent says about itself."""
        with self._errors():
            return convert.status_from(self._stub.Status(pb.StatusRequest(), timeout=timeout_s))

    def shutdown(self, *, everything: bool) -> int:
        """End the agent; with ``everything`` also all it owns. Return the containers stopped."""
        with self._errors():
            result = self._stub.Shutdown(pb.ShutdownRequest(all=everything))
            return int(result.stopped_containers)

    def run(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        no_snapshot: bool = False,
        background_fill: bool = True,
        listener: Listener = SILENT,
    ) -> StartReport:
        """Start a container from an image and wait until it is ready."""
        request = pb.RunRequest(
            store_url=store_url,
            reference=reference,
            options=convert.spec_to(spec),
            no_snapshot=no_snapshot,
            no_background_fill=not background_fill,
        )
        return convert.start_from(self._result(self._stub.Run, request, listener))

    def restore(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        fallback: FallbackRule = "default",
        trust_unsigned: bool = False,
        allow_clones: bool = False,
        background_fill: bool = True,
        listener: Listener = SILENT,
    ) -> StartReport:
        """Start a container from a snapshot and wait until it is ready."""
        request = pb.RestoreRequest(
            store_url=store_url,
            reference=reference,
            options=convert.spec_to(spec),
            fallback=_FALLBACK[fallback],
            trust_unsigned=trust_unsigned,
            allow_clones=allow_clones,
            no_background_fill=not background_fill,
        )
        return convert.start_from(self._result(self._stub.Restore, request, listener))

    def snapshot(
        self,
        store_url: str,
        container: str,
        reference: str,
        *,
        goldens: Iterable[str] = (),
        statefulness: Statefulness = "prove",
        leave_running: bool = False,
        listener: Listener = SILENT,
    ) -> SnapshotReport:
        """Capture a running container and publish the snapshot as ``reference``."""
        request = pb.SnapshotRequest(
            store_url=store_url,
            container=container,
            reference=reference,
            goldens=list(goldens),
            statefulness=_STATEFULNESS[statefulness],
            leave_running=leave_running,
        )
        return convert.snapshot_from(self._result(self._stub.Snapshot, request, listener))

    def mount(
        self,
        store_url: str,
        reference: str,
        target: Path,
        *,
        filler: FillerName | None = None,
        read_ahead_kib: int = 0,
        listener: Listener = SILENT,
    ) -> MountView:
        """Mount an image or snapshot at ``target``, an empty directory."""
        request = pb.MountRequest(
            store_url=store_url,
            reference=reference,
            target=str(target),
            filler=filler or "",
            read_ahead_kib=read_ahead_kib,
        )
        return convert.mount_from(self._result(self._stub.Mount, request, listener))

    def umount(self, target: Path) -> None:
        """Undo a mount."""
        with self._errors():
            self._stub.Umount(pb.UmountRequest(target=str(target)))

    def mounts(self) -> tuple[MountView, ...]:
        """Return every mounted image."""
        with self._errors():
            result = self._stub.ListMounts(pb.ListMountsRequest())
            return tuple(convert.mount_from(entry) for entry in result.mounts)

    def pull(
        self,
        store_url: str,
        reference: str,
        *,
        working_set: bool = False,
        listener: Listener = SILENT,
    ) -> PullReport:
        """Make everything of a reference local, or only what its recorded starts touch."""
        request = pb.PullRequest(store_url=store_url, reference=reference, working_set=working_set)
        return convert.pull_from(self._result(self._stub.Pull, request, listener))

    def containers(self) -> tuple[ContainerView, ...]:
        """Return every container, running or ended."""
        with self._errors():
            result = self._stub.List(pb.ListRequest())
            return tuple(convert.container_from(entry) for entry in result.containers)

    def stop(self, container: str, *, grace_s: float | None = None) -> ContainerView:
        """End a container; returns when its process and ports are gone."""
        with self._errors():
            request = pb.StopRequest(container=container, grace_s=grace_s)
            return convert.container_from(self._stub.Stop(request).container)

    def wait(self, container: str) -> ContainerView:
        """Block until a container has ended."""
        with self._errors():
            request = pb.WaitRequest(container=container)
            return convert.container_from(self._stub.Wait(request).container)

    def remove(self, container: str) -> None:
        """Delete an ended container."""
        with self._errors():
            self._stub.Remove(pb.RemoveRequest(container=container))

    def logs(self, container: str, *, follow: bool = False, tail: int = 0) -> Iterator[LogPiece]:
        """Yield what the container wrote; with ``follow`` until it ends."""
        request = pb.LogsRequest(container=container, follow=follow, tail=tail)
        with self._errors(), self._stream(self._stub.Logs, request) as call:
            for piece in call:
                yield LogPiece(piece.stream, piece.data, piece.time_ns)

    def exec(
        self,
        spec: ExecSpec,
        *,
        stdin: Iterable[bytes] = (),
        output: Callable[[str, bytes], object],
    ) -> int:
        """Run a program in a container; ``output`` gets its streams. Return its exit status."""

        def requests() -> Iterator[pb.ExecRequest]:
            yield pb.ExecRequest(start=convert.exec_to(spec))
            for piece in stdin:
                yield pb.ExecRequest(stdin=piece)
            yield pb.ExecRequest(stdin_end=True)

        with self._errors(), self._stream(self._stub.Exec, requests()) as call:
            for event in call:
                which = event.WhichOneof("event")
                if which == "exit_status":
                    return int(event.exit_status)
                output(which, getattr(event, which))
        raise AgentFailed(f"{spec.container}: the program's exit status was lost; see agent.log")

    def _result(self, method: Message, request: Message, listener: Listener) -> Message:
        """Make a long call: pass its events on, return the message of its result."""
        with self._errors(), self._stream(method, request) as call:
            result: Message = None
            for event in call:
                which = event.WhichOneof("event")
                if which == "progress":
                    listener.progress.update(convert.progress_from(event.progress))
                elif which == "notice":
                    listener.notify(event.notice.text)
                else:
                    result = event.result
            return result

    @contextmanager
    def _stream(self, method: Message, request: Message) -> Iterator[Message]:
        """Open a server stream and cancel it if the caller leaves it before its end."""
        call = method(request)
        try:
            yield call
        finally:
            call.cancel()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as err:
            raise rebuild(err, str(self._where)) from err
