"""What the service asks of a node, as a protocol: one method for each remote call.

``agent.node.Node`` is the node; tests put a small fake in its place. Every method raises the
roots of hotstart.core.errors. Long ones take a LongCall: they report to it, ask it between steps
whether anybody still waits, and leave nothing half-made when nobody does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from agent.long_call import LongCall
from agent.values import (
    AgentStatus,
    ContainerView,
    ExecSpec,
    FallbackRule,
    LogPiece,
    MountView,
    PullReport,
    SnapshotReport,
    StartReport,
    Statefulness,
)
from runtime.container_spec import ContainerSpec

Output = Callable[[str, bytes], object]
"""Takes pieces of a program's output: the stream's name and the bytes."""


class Calls(Protocol):
    """The node of one root, as remote callers see it."""

    def run(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        no_snapshot: bool,
        background_fill: bool,
        call: LongCall[Any],
    ) -> StartReport:
        """Start a container from an image; return when it is ready."""

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
        call: LongCall[Any],
    ) -> StartReport:
        """Start a container from a snapshot; return when it is ready."""

    def snapshot(
        self,
        store_url: str,
        container: str,
        *,
        reference: str,
        goldens: tuple[str, ...],
        statefulness: Statefulness,
        leave_running: bool,
        call: LongCall[Any],
    ) -> SnapshotReport:
        """Capture a running container; return when the snapshot is published."""

    def mount(
        self,
        store_url: str,
        reference: str,
        *,
        target: str,
        filler: str,
        read_ahead_kib: int,
        call: LongCall[Any],
    ) -> MountView:
        """Mount an image or snapshot at a directory."""

    def umount(self, target: str) -> None:
        """Undo a mount."""

    def mounts(self) -> list[MountView]:
        """Return what is mounted."""

    def pull(
        self, store_url: str, reference: str, *, working_set: bool, call: LongCall[Any]
    ) -> PullReport:
        """Make everything of a reference local, or only what its recorded starts touch."""

    def exec(
        self,
        spec: ExecSpec,
        *,
        stdin: Iterator[bytes],
        output: Output,
        call: LongCall[Any],
    ) -> int:
        """Run a program in a container; return its exit status."""

    def logs(
        self, container: str, *, follow: bool, tail: int, alive: Callable[[], bool]
    ) -> Iterator[LogPiece]:
        """Yield what a container wrote; with ``follow`` until it ends or nobody is ``alive``."""

    def stop(self, container: str, *, grace_s: float) -> ContainerView:
        """End a container; return when its process and ports are gone."""

    def wait(self, container: str, *, alive: Callable[[], bool]) -> ContainerView:
        """Block until a container has ended, or nobody is ``alive``."""

    def remove(self, container: str) -> None:
        """Delete an ended container."""

    def containers(self) -> list[ContainerView]:
        """Return every container."""

    def status(self) -> AgentStatus:
        """Tell about the agent."""

    def end_everything(self) -> int:
        """Stop containers, unmount, end keepers; return how many containers were stopped."""
