"""Limits of a control group that we make ourselves: processes, memory, CPU time, devices.

For groups that no OCI runtime makes (see runtime/direct_restore.py). File names and formats:
Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst. A controller that a limit needs and the
host lacks is an error, never a limit left out. Needs root.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Conflict, Unsupported
from hotstart.kernel import device_filter
from hotstart.kernel.cgroup import Group
from hotstart.kernel.device_filter import CharacterDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the processes of a group may use together; None is no limit.

    ``swap_limit``: the memory limit counts swapped memory too. ``cpu_us`` of CPU time are given out
    in each period of ``cpu_period_us``. Of devices only those in ``devices`` may be opened.
    """

    processes: int | None = None
    memory_bytes: int | None = None
    swap_limit: bool = False
    cpu_us: int | None = None
    cpu_period_us: int = 100_000
    devices: Sequence[CharacterDevice] = ()


@dataclass(frozen=True, slots=True)
class _Setting:
    """One file of one controller, in either version."""

    controller: str
    v1: Sequence[tuple[str, str]]
    v2: tuple[str, str]


def make_limited(group: Group, limits: Limits) -> None:
    """Make the group anew in every hierarchy and set its limits, before any process is in it.

    Raises Conflict if it is there and in use, Unsupported for a missing controller and OSError for
    what the kernel refuses; after these two the caller removes the group.
    """
    if not group.remove():
        raise Conflict(f"the control group {group.path} has processes already")
    group.create()
    for setting in _settings(limits):
        root = group.hosts.of_controller(setting.controller)
        if root is None:
            raise Unsupported(f"this host has no cgroup controller {setting.controller}")
        if root == group.hosts.v2:
            _enable(root, group.path, setting.controller)
        for name, value in [setting.v2] if root == group.hosts.v2 else setting.v1:
            (root / group.path.lstrip("/") / name).write_text(value)
    _limit_devices(group, limits.devices)


def _settings(limits: Limits) -> Iterator[_Setting]:
    if limits.processes is not None:
        pids = ("pids.max", str(limits.processes))
        yield _Setting("pids", [pids], pids)
    if limits.memory_bytes is not None:
        memory = str(limits.memory_bytes)
        v1 = [("memory.limit_in_bytes", memory)]
        yield _Setting("memory", v1, ("memory.max", memory))
        if limits.swap_limit:
            # Version 1 counts memory and swap together, version 2 swap alone.
            together = [("memory.memsw.limit_in_bytes", memory)]
            yield _Setting("memory", together, ("memory.swap.max", "0"))
    if limits.cpu_us is not None:
        quota, period = str(limits.cpu_us), str(limits.cpu_period_us)
        v1 = [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota)]
        yield _Setting("cpu", v1, ("cpu.max", f"{quota} {period}"))


def _enable(root: Path, path: str, controller: str) -> None:
    """Hand a version 2 controller down from the root to the group's parent."""
    step = root
    for part in path.strip("/").split("/"):
        control = step / "cgroup.subtree_control"
        if controller not in control.read_text().split():
            control.write_text(f"+{controller}")
        step /= part


def _limit_devices(group: Group, allowed: Sequence[CharacterDevice]) -> None:
    root = group.hosts.v1.get("devices")
    if root is None:
        if group.hosts.v2 is None:
            raise Unsupported("this host cannot limit which devices a control group opens")
        device_filter.attach(group.hosts.v2 / group.path.lstrip("/"), allowed)
        return
    directory = root / group.path.lstrip("/")
    (directory / "devices.deny").write_text("a")
    for device in allowed:
        minor = "*" if device.minor is None else device.minor
        (directory / "devices.allow").write_text(f"c {device.major}:{minor} rwm")
