from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_DEFAULT: _ClassVar[Fallback]
    FALLBACK_ALLOW: _ClassVar[Fallback]
    FALLBACK_FORBID: _ClassVar[Fallback]

class Statefulness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATEFULNESS_PROVE: _ClassVar[Statefulness]
    STATEFULNESS_STATELESS: _ClassVar[Statefulness]
    STATEFULNESS_STATEFUL: _ClassVar[Statefulness]
FALLBACK_DEFAULT: Fallback
FALLBACK_ALLOW: Fallback
FALLBACK_FORBID: Fallback
STATEFULNESS_PROVE: Statefulness
STATEFULNESS_STATELESS: Statefulness
STATEFULNESS_STATEFUL: Statefulness

class ErrorDetail(_message.Message):
    __slots__ = ("kind", "error", "message", "hint")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    error: str
    message: str
    hint: str
    def __init__(self, kind: _Optional[str] = ..., error: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("task", "done", "total", "unit", "finished")
    TASK_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    task: str
    done: int
    total: int
    unit: str
    finished: bool
    def __init__(self, task: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., unit: _Optional[str] = ..., finished: _Optional[bool] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Port(_message.Message):
    __slots__ = ("address", "host", "container")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    address: str
    host: int
    container: int
    def __init__(self, address: _Optional[str] = ..., host: _Optional[int] = ..., container: _Optional[int] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("host", "container", "read_only")
    HOST_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    host: str
    container: str
    read_only: bool
    def __init__(self, host: _Optional[str] = ..., container: _Optional[str] = ..., read_only: _Optional[bool] = ...) -> None: ...

class Words(_message.Message):
    __slots__ = ("words",)
    WORDS_FIELD_NUMBER: _ClassVar[int]
    words: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, words: _Optional[_Iterable[str]] = ...) -> None: ...

class ContainerOptions(_message.Message):
    __slots__ = ("name", "argv", "env", "workdir", "user", "hostname", "ports", "volumes", "memory_bytes", "cpus", "ready", "ready_timeout_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    READY_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    argv: Words
    env: _containers.RepeatedScalarFieldContainer[str]
    workdir: str
    user: str
    hostname: str
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    volumes: _containers.RepeatedCompositeFieldContainer[Volume]
    memory_bytes: int
    cpus: float
    ready: str
    ready_timeout_s: float
    def __init__(self, name: _Optional[str] = ..., argv: _Optional[_Union[Words, _Mapping]] = ..., env: _Optional[_Iterable[str]] = ..., workdir: _Optional[str] = ..., user: _Optional[str] = ..., hostname: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., volumes: _Optional[_Iterable[_Union[Volume, _Mapping]]] = ..., memory_bytes: _Optional[int] = ..., cpus: _Optional[float] = ..., ready: _Optional[str] = ..., ready_timeout_s: _Optional[float] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("store_url", "reference", "options", "no_snapshot", "no_background_fill")
    STORE_URL_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NO_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NO_BACKGROUND_FILL_FIELD_NUMBER: _ClassVar[int]
    store_url: str
    reference: str
    options: ContainerOptions
    no_snapshot: bool
    no_background_fill: bool
    def __init__(self, store_url: _Optional[str] = ..., reference: _Optional[str] = ..., options: _Optional[_Union[ContainerOptions, _Mapping]] = ..., no_snapshot: _Optional[bool] = ..., no_background_fill: _Optional[bool] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("store_url", "reference", "options", "fallback", "trust_unsigned", "allow_clones", "no_background_fill")
    STORE_URL_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    TRUST_UNSIGNED_FIELD_NUMBER: _ClassVar[int]
    ALLOW_CLONES_FIELD_NUMBER: _ClassVar[int]
    NO_BACKGROUND_FILL_FIELD_NUMBER: _ClassVar[int]
    store_url: str
    reference: str
    options: ContainerOptions
    fallback: Fallback
    trust_unsigned: bool
    allow_clones: bool
    no_background_fill: bool
    def __init__(self, store_url: _Optional[str] = ..., reference: _Optional[str] = ..., options: _Optional[_Union[ContainerOptions, _Mapping]] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., trust_unsigned: _Optional[bool] = ..., allow_clones: _Optional[bool] = ..., no_background_fill: _Optional[bool] = ...) -> None: ...

class StartEvent(_message.Message):
    __slots__ = ("progress", "notice", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    notice: Notice
    result: StartResult
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., result: _Optional[_Union[StartResult, _Mapping]] = ...) -> None: ...

class StartResult(_message.Message):
    __slots__ = ("container", "route", "ready_ms", "phases", "marks", "fetched_bytes", "fallback_reason", "received_s")
    class PhasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class MarksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    READY_MS_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_S_FIELD_NUMBER: _ClassVar[int]
    container: Container
    route: str
    ready_ms: float
    phases: _containers.ScalarMap[str, float]
    marks: _containers.ScalarMap[str, float]
    fetched_bytes: int
    fallback_reason: str
    received_s: float
    def __init__(self, container: _Optional[_Union[Container, _Mapping]] = ..., route: _Optional[str] = ..., ready_ms: _Optional[float] = ..., phases: _Optional[_Mapping[str, float]] = ..., marks: _Optional[_Mapping[str, float]] = ..., fetched_bytes: _Optional[int] = ..., fallback_reason: _Optional[str] = ..., received_s: _Optional[float] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("name", "state", "reference", "digest", "argv", "pid", "exit_status", "reason", "created_ns", "finished_ns", "route", "address", "ports", "ready")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_NS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    reference: str
    digest: str
    argv: _containers.RepeatedScalarFieldContainer[str]
    pid: int
    exit_status: int
    reason: str
    created_ns: int
    finished_ns: int
    route: str
    address: str
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    ready: bool
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., reference: _Optional[str] = ..., digest: _Optional[str] = ..., argv: _Optional[_Iterable[str]] = ..., pid: _Optional[int] = ..., exit_status: _Optional[int] = ..., reason: _Optional[str] = ..., created_ns: _Optional[int] = ..., finished_ns: _Optional[int] = ..., route: _Optional[str] = ..., address: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., ready: _Optional[bool] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("store_url", "container", "reference", "goldens", "statefulness", "leave_running")
    STORE_URL_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    GOLDENS_FIELD_NUMBER: _ClassVar[int]
    STATEFULNESS_FIELD_NUMBER: _ClassVar[int]
    LEAVE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    store_url: str
    container: str
    reference: str
    goldens: _containers.RepeatedScalarFieldContainer[str]
    statefulness: Statefulness
    leave_running: bool
    def __init__(self, store_url: _Optional[str] = ..., container: _Optional[str] = ..., reference: _Optional[str] = ..., goldens: _Optional[_Iterable[str]] = ..., statefulness: _Optional[_Union[Statefulness, str]] = ..., leave_running: _Optional[bool] = ...) -> None: ...

class SnapshotEvent(_message.Message):
    __slots__ = ("progress", "notice", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    notice: Notice
    result: SnapshotResult
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., result: _Optional[_Union[SnapshotResult, _Mapping]] = ...) -> None: ...

class SnapshotResult(_message.Message):
    __slots__ = ("reference", "digest", "verdict", "stateless", "size_bytes", "uploaded_bytes", "frozen_ms", "elapsed_ms", "phases", "stateful_reason")
    class PhasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    STATELESS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPLOADED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FROZEN_MS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    STATEFUL_REASON_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    verdict: str
    stateless: bool
    size_bytes: int
    uploaded_bytes: int
    frozen_ms: float
    elapsed_ms: float
    phases: _containers.ScalarMap[str, float]
    stateful_reason: str
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., verdict: _Optional[str] = ..., stateless: _Optional[bool] = ..., size_bytes: _Optional[int] = ..., uploaded_bytes: _Optional[int] = ..., frozen_ms: _Optional[float] = ..., elapsed_ms: _Optional[float] = ..., phases: _Optional[_Mapping[str, float]] = ..., stateful_reason: _Optional[str] = ...) -> None: ...

class MountRequest(_message.Message):
    __slots__ = ("store_url", "reference", "target", "filler", "read_ahead_kib")
    STORE_URL_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FILLER_FIELD_NUMBER: _ClassVar[int]
    READ_AHEAD_KIB_FIELD_NUMBER: _ClassVar[int]
    store_url: str
    reference: str
    target: str
    filler: str
    read_ahead_kib: int
    def __init__(self, store_url: _Optional[str] = ..., reference: _Optional[str] = ..., target: _Optional[str] = ..., filler: _Optional[str] = ..., read_ahead_kib: _Optional[int] = ...) -> None: ...

class MountEvent(_message.Message):
    __slots__ = ("progress", "notice", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    notice: Notice
    result: MountEntry
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., result: _Optional[_Union[MountEntry, _Mapping]] = ...) -> None: ...

class MountEntry(_message.Message):
    __slots__ = ("path", "reference", "digest", "filler", "bytes_total", "bytes_local", "users", "bytes_fetched", "bytes_used", "faults", "misses", "fault_median_ms", "fault_p99_ms", "stalled_ms", "bytes_prefetched", "bytes_prefetched_used", "retries", "mismatches", "errors", "requests", "quarantined")
    PATH_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILLER_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_LOCAL_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    FAULT_MEDIAN_MS_FIELD_NUMBER: _ClassVar[int]
    FAULT_P99_MS_FIELD_NUMBER: _ClassVar[int]
    STALLED_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PREFETCHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PREFETCHED_USED_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    path: str
    reference: str
    digest: str
    filler: str
    bytes_total: int
    bytes_local: int
    users: int
    bytes_fetched: int
    bytes_used: int
    faults: int
    misses: int
    fault_median_ms: float
    fault_p99_ms: float
    stalled_ms: float
    bytes_prefetched: int
    bytes_prefetched_used: int
    retries: int
    mismatches: int
    errors: int
    requests: int
    quarantined: int
    def __init__(self, path: _Optional[str] = ..., reference: _Optional[str] = ..., digest: _Optional[str] = ..., filler: _Optional[str] = ..., bytes_total: _Optional[int] = ..., bytes_local: _Optional[int] = ..., users: _Optional[int] = ..., bytes_fetched: _Optional[int] = ..., bytes_used: _Optional[int] = ..., faults: _Optional[int] = ..., misses: _Optional[int] = ..., fault_median_ms: _Optional[float] = ..., fault_p99_ms: _Optional[float] = ..., stalled_ms: _Optional[float] = ..., bytes_prefetched: _Optional[int] = ..., bytes_prefetched_used: _Optional[int] = ..., retries: _Optional[int] = ..., mismatches: _Optional[int] = ..., errors: _Optional[int] = ..., requests: _Optional[int] = ..., quarantined: _Optional[int] = ...) -> None: ...

class ListMountsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMountsResult(_message.Message):
    __slots__ = ("mounts",)
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    mounts: _containers.RepeatedCompositeFieldContainer[MountEntry]
    def __init__(self, mounts: _Optional[_Iterable[_Union[MountEntry, _Mapping]]] = ...) -> None: ...

class UmountRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: str
    def __init__(self, target: _Optional[str] = ...) -> None: ...

class UmountResult(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("store_url", "reference", "working_set")
    STORE_URL_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    WORKING_SET_FIELD_NUMBER: _ClassVar[int]
    store_url: str
    reference: str
    working_set: bool
    def __init__(self, store_url: _Optional[str] = ..., reference: _Optional[str] = ..., working_set: _Optional[bool] = ...) -> None: ...

class PullEvent(_message.Message):
    __slots__ = ("progress", "notice", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    notice: Notice
    result: PullResult
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., result: _Optional[_Union[PullResult, _Mapping]] = ...) -> None: ...

class PullResult(_message.Message):
    __slots__ = ("digest", "size_bytes", "fetched_bytes", "elapsed_ms")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    fetched_bytes: int
    elapsed_ms: float
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., fetched_bytes: _Optional[int] = ..., elapsed_ms: _Optional[float] = ...) -> None: ...

class ExecRequest(_message.Message):
    __slots__ = ("start", "stdin", "stdin_end")
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_END_FIELD_NUMBER: _ClassVar[int]
    start: ExecStart
    stdin: bytes
    stdin_end: bool
    def __init__(self, start: _Optional[_Union[ExecStart, _Mapping]] = ..., stdin: _Optional[bytes] = ..., stdin_end: _Optional[bool] = ...) -> None: ...

class ExecStart(_message.Message):
    __slots__ = ("container", "argv", "env", "workdir", "user")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKDIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    container: str
    argv: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    workdir: str
    user: str
    def __init__(self, container: _Optional[str] = ..., argv: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., workdir: _Optional[str] = ..., user: _Optional[str] = ...) -> None: ...

class ExecEvent(_message.Message):
    __slots__ = ("stdout", "stderr", "exit_status")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    stdout: bytes
    stderr: bytes
    exit_status: int
    def __init__(self, stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., exit_status: _Optional[int] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("container", "follow", "tail")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    container: str
    follow: bool
    tail: int
    def __init__(self, container: _Optional[str] = ..., follow: _Optional[bool] = ..., tail: _Optional[int] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("stream", "data", "time_ns")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    data: bytes
    time_ns: int
    def __init__(self, stream: _Optional[str] = ..., data: _Optional[bytes] = ..., time_ns: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("container", "grace_s")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    container: str
    grace_s: float
    def __init__(self, container: _Optional[str] = ..., grace_s: _Optional[float] = ...) -> None: ...

class StopResult(_message.Message):
    __slots__ = ("container",)
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: Container
    def __init__(self, container: _Optional[_Union[Container, _Mapping]] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("container",)
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: str
    def __init__(self, container: _Optional[str] = ...) -> None: ...

class WaitResult(_message.Message):
    __slots__ = ("container",)
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: Container
    def __init__(self, container: _Optional[_Union[Container, _Mapping]] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("container",)
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: str
    def __init__(self, container: _Optional[str] = ...) -> None: ...

class RemoveResult(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResult(_message.Message):
    __slots__ = ("containers",)
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    def __init__(self, containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResult(_message.Message):
    __slots__ = ("version", "root", "pid", "uptime_s", "filler", "running", "mounts", "workers", "metrics_url")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    FILLER_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    METRICS_URL_FIELD_NUMBER: _ClassVar[int]
    version: str
    root: str
    pid: int
    uptime_s: float
    filler: str
    running: int
    mounts: int
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    metrics_url: str
    def __init__(self, version: _Optional[str] = ..., root: _Optional[str] = ..., pid: _Optional[int] = ..., uptime_s: _Optional[float] = ..., filler: _Optional[str] = ..., running: _Optional[int] = ..., mounts: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., metrics_url: _Optional[str] = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("kind", "pid", "starts")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pid: int
    starts: int
    def __init__(self, kind: _Optional[str] = ..., pid: _Optional[int] = ..., starts: _Optional[int] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("all",)
    ALL_FIELD_NUMBER: _ClassVar[int]
    all: bool
    def __init__(self, all: _Optional[bool] = ...) -> None: ...

class ShutdownResult(_message.Message):
    __slots__ = ("stopped_containers",)
    STOPPED_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    stopped_containers: int
    def __init__(self, stopped_containers: _Optional[int] = ...) -> None: ...
