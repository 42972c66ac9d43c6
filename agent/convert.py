"""Values to messages and back. No decisions: every function here is a change of clothes."""

from __future__ import annotations

from dataclasses import fields

from agent.proto.generated import hotstart_pb2 as pb
from agent.values import (
    AgentStatus,
    ContainerView,
    ExecSpec,
    MountView,
    PullReport,
    SnapshotReport,
    StartReport,
    WorkerView,
)
from hotstart.core.progress import Progress
from runtime.container_spec import ContainerSpec, PortMapping, Volume, generate_name

_MOUNT_FIELDS = tuple(field.name for field in fields(MountView))


def progress_to(event: Progress) -> pb.Progress:
    """Return the message of one progress event."""
    return pb.Progress(
        task=event.task,
        done=event.done,
        total=event.total,
        unit=event.unit,
        finished=event.finished,
    )


def progress_from(message: pb.Progress) -> Progress:
    """Return the progress event of a message."""
    total = message.total if message.HasField("total") else None
    return Progress(message.task, message.done, total, message.unit or "bytes", message.finished)


def spec_to(spec: ContainerSpec) -> pb.ContainerOptions:
    """Return the message of what a caller wants of a container."""
    return pb.ContainerOptions(
        name=spec.name,
        argv=pb.Words(words=spec.argv) if spec.argv is not None else None,
        env=spec.env,
        workdir=spec.workdir,
        user=spec.user,
        hostname=spec.hostname,
        ports=[port_to(port) for port in spec.ports],
        volumes=[
            pb.Volume(host=v.host, container=v.container, read_only=v.read_only)
            for v in spec.volumes
        ],
        memory_bytes=spec.memory_bytes,
        cpus=spec.cpus,
        ready=spec.ready,
        ready_timeout_s=spec.ready_timeout_s,
    )


def spec_from(message: pb.ContainerOptions) -> ContainerSpec:
    """Return what a caller wants of a container. Raises UserError for what cannot be."""
    optional = {
        name: getattr(message, name)
        for name in ("workdir", "user", "hostname", "memory_bytes", "cpus", "ready")
        if message.HasField(name)
    }
    if message.ready_timeout_s:
        optional["ready_timeout_s"] = message.ready_timeout_s
    return ContainerSpec(
        name=message.name or generate_name(),
        argv=tuple(message.argv.words) if message.HasField("argv") else None,
        env=tuple(message.env),
        ports=tuple(port_from(port) for port in message.ports),
        volumes=tuple(Volume(v.host, v.container, v.read_only) for v in message.volumes),
        **optional,
    )


def port_to(port: PortMapping) -> pb.Port:
    """Return the message of a published port."""
    return pb.Port(address=port.address, host=port.host, container=port.container)


def port_from(message: pb.Port) -> PortMapping:
    """Return a published port."""
    return PortMapping(message.host, message.container, message.address)


def container_to(view: ContainerView) -> pb.Container:
    """Return the message of a container."""
    return pb.Container(
        name=view.name,
        state=view.state,
        reference=view.reference,
        digest=view.digest,
        argv=view.argv,
        pid=view.pid,
        exit_status=view.exit_status,
        reason=view.reason,
        created_ns=view.created_ns,
        finished_ns=view.finished_ns,
        route=view.route,
        address=view.address,
        ports=[port_to(port) for port in view.ports],
        ready=view.ready,
    )


def container_from(message: pb.Container) -> ContainerView:
    """Return a container."""
    return ContainerView(
        name=message.name,
        state=message.state,
        reference=message.reference,
        digest=message.digest,
        argv=tuple(message.argv),
        pid=message.pid,
        exit_status=message.exit_status if message.HasField("exit_status") else None,
        reason=message.reason,
        created_ns=message.created_ns,
        finished_ns=message.finished_ns,
        route=message.route,
        address=message.address,
        ports=tuple(port_from(port) for port in message.ports),
        ready=message.ready,
    )


def start_to(report: StartReport) -> pb.StartResult:
    """Return the message of a start."""
    return pb.StartResult(
        container=container_to(report.container),
        route=report.route,
        ready_ms=report.ready_ms,
        phases=report.phases,
        marks=report.marks,
        fetched_bytes=report.fetched_bytes,
        fallback_reason=report.fallback_reason,
        received_s=report.received_s,
    )


def start_from(message: pb.StartResult) -> StartReport:
    """Return how a start went."""
    return StartReport(
        container=container_from(message.container),
        route=message.route,
        ready_ms=message.ready_ms,
        phases=dict(message.phases),
        marks=dict(message.marks),
        fetched_bytes=message.fetched_bytes,
        fallback_reason=message.fallback_reason,
        received_s=message.received_s,
    )


def exec_to(spec: ExecSpec) -> pb.ExecStart:
    """Return the message of a program to run."""
    return pb.ExecStart(
        container=spec.container,
        argv=spec.argv,
        env=spec.env,
        workdir=spec.workdir,
        user=spec.user,
    )


def exec_from(message: pb.ExecStart) -> ExecSpec:
    """Return a program to run."""
    return ExecSpec(
        message.container, tuple(message.argv), tuple(message.env), message.workdir, message.user
    )


def snapshot_to(report: SnapshotReport) -> pb.SnapshotResult:
    """Return the message of a capture."""
    return pb.SnapshotResult(
        reference=report.reference,
        digest=report.digest,
        verdict=report.verdict,
        stateless=report.stateless,
        size_bytes=report.size_bytes,
        uploaded_bytes=report.uploaded_bytes,
        frozen_ms=report.frozen_ms,
        elapsed_ms=report.elapsed_ms,
        phases=report.phases,
        stateful_reason=report.stateful_reason,
    )


def snapshot_from(message: pb.SnapshotResult) -> SnapshotReport:
    """Return what a capture published."""
    return SnapshotReport(
        reference=message.reference,
        digest=message.digest,
        verdict=message.verdict,
        stateless=message.stateless,
        size_bytes=message.size_bytes,
        uploaded_bytes=message.uploaded_bytes,
        frozen_ms=message.frozen_ms,
        elapsed_ms=message.elapsed_ms,
        phases=dict(message.phases),
        stateful_reason=message.stateful_reason,
    )


def mount_to(view: MountView) -> pb.MountEntry:
    """Return the message of a mount."""
    return pb.MountEntry(**{name: getattr(view, name) for name in _MOUNT_FIELDS})


def mount_from(message: pb.MountEntry) -> MountView:
    """Return a mount."""
    return MountView(**{name: getattr(message, name) for name in _MOUNT_FIELDS})


def pull_to(report: PullReport) -> pb.PullResult:
    """Return the message of a pull."""
    return pb.PullResult(
        digest=report.digest,
        size_bytes=report.size_bytes,
        fetched_bytes=report.fetched_bytes,
        elapsed_ms=report.elapsed_ms,
    )


def pull_from(message: pb.PullResult) -> PullReport:
    """Return what a pull made local."""
    return PullReport(
        digest=message.digest,
        size_bytes=message.size_bytes,
        fetched_bytes=message.fetched_bytes,
        elapsed_ms=message.elapsed_ms,
    )


def status_to(status: AgentStatus) -> pb.StatusResult:
    """Return the message of an agent's status."""
    return pb.StatusResult(
        version=status.version,
        root=status.root,
        pid=status.pid,
        uptime_s=status.uptime_s,
        filler=status.filler,
        running=status.running,
        mounts=status.mounts,
        workers=[pb.Worker(kind=w.kind, pid=w.pid, starts=w.starts) for w in status.workers],
        metrics_url=status.metrics_url,
    )


def status_from(message: pb.StatusResult) -> AgentStatus:
    """Return an agent's status."""
    return AgentStatus(
        version=message.version,
        root=message.root,
        pid=message.pid,
        uptime_s=message.uptime_s,
        filler=message.filler,
        running=message.running,
        mounts=message.mounts,
        workers=tuple(WorkerView(w.kind, w.pid, w.starts) for w in message.workers),
        metrics_url=message.metrics_url,
    )
