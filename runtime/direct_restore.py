"""Restores a container by CRIU itself, without runc; the monitor is conmon all the same.

What runc does around CRIU is done here: the control group with its limits is made, CRIU starts in
it (criu_order.py), and gets the bind mounts, the network namespace and the streams by the names
under which runc has dumped them. Everything else of a container (namespaces, mounts, masked paths,
capabilities, seccomp filter) is in the dump. runc knows nothing of the container until somebody
needs it to (adoption.py). Needs root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotstart.core.errors import Unsupported
from hotstart.core.log import get_logger
from hotstart.kernel.cgroup import Group
from hotstart.kernel.cgroup_limits import Limits, make_limited
from hotstart.kernel.device_filter import CharacterDevice
from runtime.bind_targets import bind_targets
from runtime.bundle import read_config
from runtime.conmon import Conmon
from runtime.container_directory import ContainerDirectory
from runtime.runc import Programs
from snapshotter.criu import ORDER_VARIABLE, CriuFront
from snapshotter.criu_order import Order

log = get_logger(__name__)

ORDER_FILE = "order"

# fmt: off
DEVICES = (
    CharacterDevice(1, 3), CharacterDevice(1, 5), CharacterDevice(1, 7), CharacterDevice(1, 8),
    CharacterDevice(1, 9), CharacterDevice(5, 0), CharacterDevice(5, 2), CharacterDevice(136),
)
"""null, zero, full, random, urandom, tty, ptmx, pts/*: what runc lets every container use."""
# fmt: on


class DirectRestore:
    """The way around runc for one restore. ``config.json`` of the container must be written."""

    def __init__(self, programs: Programs, front: CriuFront, directory: ContainerDirectory) -> None:
        self._programs = programs
        self._front = front
        self._directory = directory
        self._config = read_config(directory)
        self._group = Group.named(self._config["linux"]["cgroupsPath"])

    def prepare(self) -> bool:
        """Make the control group; False if this host can't, and nothing is left then.

        Raises Conflict if there is such a group with processes.
        """
        if not self._front.takes_orders:
            return False
        try:
            make_limited(self._group, limits_of(self._config["linux"]["resources"]))
        except (OSError, Unsupported) as err:
            log.warning("restores_through_runc", container=self._directory.name, reason=str(err))
            self._group.remove()
            return False
        return True

    def restore(self, dump: Path, log_name: str, env: Mapping[str, str]) -> int:
        """Restore and return the pid of the first process.

        conmon takes the front for its runtime; the front drops the words that conmon has for a
        runtime, and follows the order. Raises RuncFailed, MonitorFailed, OSError.
        """
        order = self._order(dump, log_name).write(self._directory.criu / ORDER_FILE)
        by_front = replace(self._programs, runc=str(self._front.program))
        conmon = Conmon(by_front, self._directory, env={**env, ORDER_VARIABLE: str(order)})
        return conmon.restore(dump, self._directory.criu)

    def _order(self, dump: Path, log_name: str) -> Order:
        directory, config = self._directory, self._config
        namespaces = config["linux"]["namespaces"]
        network = next(one for one in namespaces if one["type"] == "network")
        return Order(
            groups=[group / "cgroup.procs" for group in self._group.directories()],
            network=Path(network["path"]),
            config=Path(config["annotations"]["org.criu.config"]),
            dump=dump,
            work=directory.criu,
            root=directory.rootfs,
            log=log_name,
            pid_file=directory.pid_file,
            binds=bind_targets(directory.rootfs, config["mounts"]),
            streams=json.loads((dump / "descriptors.json").read_bytes()),
        )


def limits_of(resources: Mapping[str, Any]) -> Limits:
    """Return the limits in a bundle's ``resources`` (oci_spec.py writes them).

    Raises Unsupported for one that is not known here.
    """
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    unknown = resources.keys() - {"devices", "pids", "memory", "cpu"}
    unknown |= memory.keys() - {"limit", "swap"} | cpu.keys() - {"quota", "period"}
    if unknown:
        raise Unsupported(f"limits that only runc sets: {', '.join(sorted(unknown))}")
    limits = Limits(
        processes=resources["pids"]["limit"],
        memory_bytes=memory.get("limit"),
        swap_limit="swap" in memory,
        devices=DEVICES,
    )
    if not cpu:
        return limits
    return replace(limits, cpu_us=cpu["quota"], cpu_period_us=cpu["period"])
