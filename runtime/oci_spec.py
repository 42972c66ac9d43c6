"""config.json of the OCI runtime specification (1.0.2), from an image's config and a spec. Pure.

Hardened defaults: few capabilities, no new privileges, masked and read-only paths in /proc and
/sys, a seccomp profile (seccomp.json), no device beyond the harmless ones, a limit on processes.
Two defaults serve CRIU: io_uring and userfaultfd answer ENOSYS (a program that holds one cannot
be dumped, one that is refused falls back), and /dev and /dev/shm are *bind* mounts of tmpfs
directories made by dev_shm.py (a tmpfs of the container's own is dumped and restored by spawning
``tar``, 3-8 ms each). mqueue and cgroup mounts are left out: each costs a restore milliseconds.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from hotstart.core.errors import UserError
from runtime.accounts import Account
from runtime.container_spec import ContainerSpec
from runtime.containers import signal_number

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# fmt: off
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# fmt: on

_PROCESS_LIMIT = 4096
_CPU_PERIOD_US = 100_000
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


class StopSignalUnknown(UserError):
    """The image says that its process ends by a signal which does not exist."""

    def __init__(self, name: str, stop_signal: str) -> None:
        super().__init__(
            f"{name}: the image's StopSignal is not a signal: {stop_signal[:40]!r}",
            "build the image with a name like SIGTERM or a number",
        )


class ImageWithoutCommand(UserError):
    """Neither the image nor the caller says what to run."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: the image has no command", "give one after --, or build it with --cmd"
        )


@dataclass(frozen=True, slots=True)
class Process:
    """What runs first in a container, everything resolved except who runs it."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str
    stop_signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSide:
    """What a bundle needs of the host: paths, the cgroup, limits that the host can enforce."""

    rootfs: str
    dev: str
    shm: str
    netns: str
    cgroup: str
    open_files: tuple[int, int]
    swap_limit: bool
    criu_config: str | None = None


def resolve_process(spec: ContainerSpec, image_config: Mapping[str, Any]) -> Process:
    """Merge the spec over the image's config (``config`` of the OCI image configuration).

    Raises ImageWithoutCommand, StopSignalUnknown.
    """
    image = image_config.get("config") or {}
    command = spec.argv if spec.argv is not None else tuple(image.get("Cmd") or ())
    argv = (*(image.get("Entrypoint") or ()), *command)
    if not argv or not argv[0]:
        raise ImageWithoutCommand(spec.name)
    stop_signal = stop_signal_of(image_config)
    _require_signal(spec.name, stop_signal)
    return Process(
        argv=argv,
        env=merge_environment((f"PATH={DEFAULT_PATH}",), image.get("Env") or (), spec.env),
        workdir=spec.workdir or image.get("WorkingDir") or "/",
        user=spec.user if spec.user is not None else image.get("User") or "",
        stop_signal=stop_signal,
    )


def stop_signal_of(image_config: Mapping[str, Any]) -> str:
    """Return the signal by which an image's process is asked to end."""
    return str((image_config.get("config") or {}).get("StopSignal") or "SIGTERM")


def _require_signal(name: str, stop_signal: str) -> None:
    try:
        signal_number(stop_signal)
    except UserError as err:
        raise StopSignalUnknown(name, stop_signal) from err


def merge_environment(*layers: Sequence[str]) -> tuple[str, ...]:
    """Return the entries, later layers winning; the first place of a name stays its place."""
    merged: dict[str, str] = {}
    for layer in layers:
        for entry in layer:
            name, _, value = entry.partition("=")
            merged[name] = value
    return tuple(f"{name}={value}" for name, value in merged.items())


def runtime_config(
    spec: ContainerSpec, process: Process, account: Account, host: HostSide
) -> dict[str, Any]:
    """Return config.json as plain values."""
    hostname = spec.hostname or spec.name
    env = merge_environment((f"HOME={account.home}", f"HOSTNAME={hostname}"), process.env)
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": host.rootfs, "readonly": False},
        "process": process_config(replace(process, env=env), account, host.open_files),
        "mounts": _mounts(spec, host),
        "annotations": {"org.criu.config": host.criu_config} if host.criu_config else {},
        "linux": _linux(spec, host),
    }


def process_config(
    process: Process, account: Account, open_files: tuple[int, int]
) -> dict[str, Any]:
    """Return a ``process`` object: the container's first one, or one for exec."""
    capabilities = list(CAPABILITIES)
    # A process that isn't root gets none in effect; the bounding set is what it can never exceed.
    held = capabilities if account.uid == 0 else []
    soft, hard = open_files
    return {
        "terminal": False,
        "user": {
            "uid": account.uid,
            "gid": account.gid,
            "additionalGids": list(account.groups),
        },
        "args": list(process.argv),
        "env": list(process.env),
        "cwd": process.workdir,
        "capabilities": {"bounding": capabilities, "effective": held, "permitted": held},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
        "noNewPrivileges": True,
    }


def _mounts(spec: ContainerSpec, host: HostSide) -> list[dict[str, Any]]:
    def mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source, "options": list(options)}

    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    volumes = sorted(spec.volumes, key=lambda volume: volume.container.count("/"))
    return [
        mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "bind", host.dev, "bind", "rw"),
        mount("/dev/pts", "devpts", "devpts", *pts),
        mount("/dev/shm", "bind", host.shm, "bind", "rw"),  # noqa: S108 - a mount point inside the container
        mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        *(
            mount(v.container, "bind", v.host, "rbind", "ro" if v.read_only else "rw", "rprivate")
            for v in volumes
        ),
    ]


def _linux(spec: ContainerSpec, host: HostSide) -> dict[str, Any]:
    kinds = ("pid", "ipc", "uts", "mount")
    return {
        "namespaces": [
            *({"type": kind} for kind in kinds),
            {"type": "network", "path": host.netns},
        ],
        "cgroupsPath": host.cgroup,
        "resources": _resources(spec, swap_limit=host.swap_limit),
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
        "seccomp": seccomp_profile(platform.machine()),
    }


def _resources(spec: ContainerSpec, *, swap_limit: bool) -> dict[str, Any]:
    resources_: dict[str, Any] = {
        # runc adds the harmless devices (null, zero, full, random, urandom, tty, pts) itself.
        "devices": [{"allow": False, "access": "rwm"}],
        "pids": {"limit": _PROCESS_LIMIT},
    }
    if spec.memory_bytes is not None:
        resources_["memory"] = {"limit": spec.memory_bytes}
        if swap_limit:  # "swap" counts memory and swap together: equal means no swap
            resources_["memory"]["swap"] = spec.memory_bytes
    if spec.cpus is not None:
        quota = round(spec.cpus * _CPU_PERIOD_US)
        resources_["cpu"] = {"quota": quota, "period": _CPU_PERIOD_US}
    return resources_


def seccomp_profile(machine: str) -> dict[str, Any]:
    """Return the default profile for this kind of machine, as runc takes it."""
    text = resources.files("runtime").joinpath("seccomp.json").read_text()
    document = json.loads(text)
    native = _ARCHITECTURES.get(machine)
    maps = [entry for entry in document.pop("archMap") if entry["architecture"] == native]
    document["architectures"] = [
        name for entry in maps for name in (entry["architecture"], *entry["subArchitectures"])
    ]
    for rule in document["syscalls"]:
        del rule["comment"]
    return dict(document)
