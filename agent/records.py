"""What the agent remembers of one container, as a value, and its JSON form for the database.

A record is *starting* until everything it owns is written into it, *running* from then on, and
*ended* once all that is let go. A record found *starting* by a new agent is half-made and undone.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent.container_errors import STOPPED_AT_START
from agent.values import ContainerView
from lazyfs.spec import MountSpec
from runtime.container_spec import ContainerSpec
from runtime.containers import ContainerStatus
from runtime.links import Network

Stage = Literal["starting", "running", "ended"]


@dataclass(frozen=True, slots=True)
class HeldMount:
    """An image mount that a container uses, with what is needed to take it up again."""

    spec: MountSpec
    read_ahead_kib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """One container. ``digest`` is what ``reference`` named at the start, an image or a snapshot;
    ``image_digest`` is the image's manifest; ``start_key`` names how a start of the image was
    asked for (hex, empty where a snapshot was). Times are nanoseconds since 1970.
    """

    spec: ContainerSpec
    stage: Stage
    store_url: str
    reference: str
    digest: str
    image_reference: str
    image_digest: str
    route: str
    created_ns: int
    argv: tuple[str, ...] = ()
    start_key: str = ""
    stop_signal: str = "SIGTERM"
    network: Network | None = None
    mounts: tuple[HeldMount, ...] = ()
    session: str = ""
    exit_status: int | None = None
    reason: str = ""
    finished_ns: int = 0

    @property
    def name(self) -> str:
        """The container's name."""
        return self.spec.name

    def ended(self, status: ContainerStatus, reason: str) -> ContainerRecord:
        """Return the record of a container that has ended and holds nothing any more."""
        return replace(
            self,
            stage="ended",
            network=None,
            mounts=(),
            session="",
            exit_status=status.exit_status,
            reason=reason or status.reason,
            finished_ns=status.finished_ns,
        )

    def given_up(self, *, stopped: bool) -> ContainerRecord:
        """Return the record of a container whose start failed, or was ``stopped``."""
        killed = ContainerStatus("stopped", 0, 128 + signal.SIGKILL, "", time.time_ns())
        return self.ended(killed, STOPPED_AT_START if stopped else "its start failed")

    def view(self, status: ContainerStatus | None) -> ContainerView:
        """Return what callers see; ``status`` is the kernel's word on one that is not ended."""
        running = status is not None and status.state == "running"
        stopped = self.stage == "ended" or (status is not None and status.state == "stopped")
        return ContainerView(
            name=self.name,
            state="stopped" if stopped else "running" if running else "created",
            reference=self.reference,
            digest=self.digest,
            argv=self.argv,
            pid=status.pid if running and status is not None else 0,
            exit_status=self.exit_status if status is None else status.exit_status,
            reason=self.reason or (status.reason if status is not None else ""),
            created_ns=self.created_ns,
            finished_ns=self.finished_ns if status is None else status.finished_ns,
            route=self.route,
            address=self.network.address if running and self.network is not None else "",
            ports=self.spec.ports,
            ready=running and self.stage == "running",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            **plain,
            "spec": self.spec.to_dict(),
            "argv": list(self.argv),
            "network": self.network.to_dict() if self.network is not None else None,
            "mounts": [
                {"spec": held.spec.to_json(), "read_ahead_kib": held.read_ahead_kib}
                for held in self.mounts
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ContainerRecord:
        """Read ``to_json``'s form. Raises UserError for keys of another version."""
        network = value["network"]
        return cls(
            **{name: value[name] for name in _PLAIN},
            spec=ContainerSpec.from_dict(value["spec"]),
            argv=tuple(value["argv"]),
            network=Network.from_dict(network) if network is not None else None,
            mounts=tuple(
                HeldMount(MountSpec.from_json(held["spec"]), held["read_ahead_kib"])
                for held in value["mounts"]
            ),
        )


_PLAIN = (
    "stage",
    "store_url",
    "reference",
    "digest",
    "image_reference",
    "image_digest",
    "route",
    "created_ns",
    "start_key",
    "stop_signal",
    "session",
    "exit_status",
    "reason",
    "finished_ns",
)
