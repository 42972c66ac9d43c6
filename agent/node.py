"""The node: everything that one root owns, and the calls that the service makes on it.

Parts are put together in ``agent.parts``. ``close`` ends the agent's side and leaves containers,
mounts and keeper as they are; ``end_everything`` stops and unmounts all of it first. The agent
never reads what it mounts: only containers and their users do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from agent import pulls
from agent.calls import Output
from agent.execs import run_exec
from agent.long_call import LongCall
from agent.observation import Observation, observe
from agent.parts import Parts
from agent.state import MountRow
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
    WorkerView,
)
from hotstart.core.errors import Conflict, HotstartError, Unavailable
from hotstart.core.log import get_logger
from lazyfs.spec import MountSpec
from runtime.container_spec import ContainerSpec
from runtime.logs import read_log
from runtime.weights import is_weights_url, load_weights, tell_skipped

log = get_logger(__name__)

Call = LongCall[Any]
GRACE_AT_END_S = 10.0
_STOPS_AT_ONCE = 16


class AgentEnding(Unavailable):
    """The agent is going down and takes no more calls."""


class Node:
    """The node of one root. A context manager: entering adopts what runs, leaving leaves it."""

    def __init__(
        self, root: Path, *, filler: FillerName = "auto", environment: Mapping[str, str]
    ) -> None:
        """``environment`` may name a CRIU (HOTSTART_CRIU)."""
        self._root = root
        self._environment = environment
        self._wanted_filler = filler
        self._started_s = time.monotonic()
        self._ending = threading.Event()
        self._parts: Parts | None = None
        self.metrics_url = ""
        """Where this node's metrics are served, for ``status``; empty: nowhere."""
        self.owns_nothing = False
        """Set once everything was ended: no keeper, no worker, no mount is left."""

    def __enter__(self) -> Node:
        self._parts = Parts(self._root, self._wanted_filler, self._environment)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._parts is not None:
            self._parts.close()

    @property
    def parts(self) -> Parts:
        """What the node is made of; only between entering and leaving."""
        if self._parts is None or self._ending.is_set():
            raise AgentEnding(f"the agent of {self._root} is going down")
        return self._parts

    @property
    def filler(self) -> str:
        """How absent data is brought: ``fanotify`` or ``fuse``."""
        return self.parts.images.filler

    def stop_accepting(self) -> None:
        """Let no new call begin, and end those that only wait."""
        self._ending.set()

    def run(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        no_snapshot: bool,
        background_fill: bool,
        call: Call,
    ) -> StartReport:
        """Start a container from an image; return when it is ready."""
        return self.parts.starter.run(
            store_url,
            reference,
            spec=spec,
            no_snapshot=no_snapshot,
            background_fill=background_fill,
            call=call,
        )

    def restore(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        fallback: FallbackRule,
        trust_unsigned: bool,
        allow_clones: bool,
        background_fill: bool,
        call: Call,
    ) -> StartReport:
        """Start a container from a snapshot; return when it is ready."""
        return self.parts.starter.restore(
            store_url,
            reference,
            spec=spec,
            fallback=fallback,
            trust_unsigned=trust_unsigned,
            allow_clones=allow_clones,
            background_fill=background_fill,
            call=call,
        )

    def snapshot(
        self,
        store_url: str,
        container: str,
        *,
        reference: str,
        goldens: tuple[str, ...],
        statefulness: Statefulness,
        leave_running: bool,
        call: Call,
    ) -> SnapshotReport:
        """Capture a running container; return when the snapshot is published."""
        return self.parts.captures.snapshot(
            store_url,
            container,
            reference=reference,
            goldens=goldens,
            statefulness=statefulness,
            leave_running=leave_running,
            call=call,
        )

    def mount(
        self,
        store_url: str,
        reference: str,
        *,
        target: str,
        filler: str,
        read_ahead_kib: int,
        call: Call,
    ) -> MountView:
        """Mount an image or snapshot at a directory."""
        parts = self.parts
        if filler not in ("", "auto", parts.images.filler):
            raise Conflict(
                f"the agent of {self._root} fills by {parts.images.filler}, not by {filler}",
                f"use another --root, or end it and: hotstart agent start --filler {filler}",
            )
        spec = self._mount_spec(store_url, reference, call)
        row = MountRow(
            target=target,
            reference=reference,
            digest=f"sha256:{spec.manifest}",
            filler=parts.images.filler,
            read_ahead_kib=read_ahead_kib,
            spec=spec.to_json(),
        )
        call.check()
        parts.targets.mount(row)
        if call.cancelled:
            parts.targets.umount(target)
            call.check()
        return next(view for view in self.mounts() if view.path == target)

    def _mount_spec(self, store_url: str, reference: str, call: Call) -> MountSpec:
        """Return what a reference, or the URL of a bucket of weights, names."""
        if not is_weights_url(reference):
            manifest = pulls.manifest_of(self.parts.pulled.store(store_url, call.notify), reference)
            return MountSpec.of(manifest, store_url)
        weights = load_weights(reference, self.parts.cache)
        tell_skipped(weights, call.notify)
        return weights.spec

    def umount(self, target: str) -> None:
        """Undo a mount."""
        self.parts.targets.umount(target)

    def mounts(self) -> list[MountView]:
        """Return what is mounted: targets first, then images that only containers use."""
        return self.parts.mount_views()

    def pull(self, store_url: str, reference: str, *, working_set: bool, call: Call) -> PullReport:
        """Make everything of a reference local, or only what its recorded starts touch."""
        return (pulls.warm if working_set else pulls.pull)(self.parts, store_url, reference, call)

    def exec(
        self, spec: ExecSpec, *, stdin: Iterator[bytes], output: Output, call: LongCall[Any]
    ) -> int:
        """Run a program in a container; return its exit status."""
        containers = self.parts.containers
        containers.require_running(spec.container)
        return run_exec(
            containers.directory(spec.container),
            containers.runc(spec.container),
            spec,
            stdin=stdin,
            output=output,
            call=call,
        )

    def logs(
        self, container: str, *, follow: bool, tail: int, alive: Callable[[], bool]
    ) -> Iterator[LogPiece]:
        """Yield what a container wrote; with ``follow`` until it ends or nobody is ``alive``."""
        containers = self.parts.containers
        directory = containers.directory(container)

        def goes_on() -> bool:
            return alive() and not self._ending.is_set() and containers.is_running(container)

        lines = read_log(directory, tail=tail, follow=goes_on if follow else None)
        return (LogPiece(line.stream, line.data, line.time_ns) for line in lines)

    def stop(self, container: str, *, grace_s: float) -> ContainerView:
        """End a container; return when its processes and ports are gone."""
        return self.parts.containers.stop(container, grace_s=grace_s)

    def wait(self, container: str, *, alive: Callable[[], bool]) -> ContainerView:
        """Block until a container has ended, or nobody is ``alive``."""
        view = self.parts.containers.wait(container, lambda: alive() and not self._ending.is_set())
        if view.exit_status is None:
            raise AgentEnding(f"{container} still runs, but its agent is going down")
        self.parts.reads.require_executed(container)
        return view

    def remove(self, container: str) -> None:
        """Delete an ended container."""
        self.parts.containers.remove(container)

    def containers(self) -> list[ContainerView]:
        """Return every container."""
        return self.parts.containers.views()

    def status(self) -> AgentStatus:
        """Tell about the agent."""
        parts = self.parts
        return AgentStatus(
            version=version(),
            root=str(self._root),
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._started_s, 1),
            filler=parts.images.filler,
            running=len(parts.containers.running()),
            mounts=len(self.mounts()),
            workers=tuple(self._workers()),
            metrics_url=self.metrics_url,
        )

    def observe(self) -> Observation:
        """Return what metrics are made of; waits neither for a worker nor for a keeper."""
        return observe(self.parts)

    def _workers(self) -> Iterator[WorkerView]:
        keeper = self.parts.guard.status()
        yield WorkerView("keeper", keeper["pid"], 1)
        for kind, worker in sorted(keeper["workers"].items()):
            yield WorkerView(kind, worker["pid"], worker["starts"])

    def end_everything(self) -> int:
        """Stop containers, unmount, end keeper and networks; return how many were stopped.

        What cannot be ended is logged and does not keep the rest from ending; the first such error
        is raised at the end.
        """
        parts = self.parts
        names = parts.containers.running()
        with ThreadPoolExecutor(_STOPS_AT_ONCE, thread_name_prefix="stop") as pool:
            errors = [error for error in pool.map(self._stop_quietly, names) if error is not None]
        parts.end()
        self.owns_nothing = True
        if errors:
            raise errors[0]
        return len(names)

    def _stop_quietly(self, name: str) -> HotstartError | OSError | None:
        try:
            self.parts.containers.stop(name, grace_s=GRACE_AT_END_S)
        except (HotstartError, OSError) as err:
            log.warning("container_not_stopped", container=name, reason=err)
            return err
        return None


def version() -> str:
    """Return the installed version; a bare checkout has none."""
    try:
        return metadata.version("hotstart")
    except metadata.PackageNotFoundError:
        return "uninstalled"
