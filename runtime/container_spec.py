"""What a caller wants of one container, as values. Pure: nothing here looks at the host.

Everything left out (None, empty) means "as the image says". ``to_dict`` and ``from_dict`` carry a
spec into the container's record and into snapshots; unknown keys are refused.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hotstart.core.errors import UserError

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9.-]{1,64}(?<!-)")
_HIGHEST_PORT = 65535
_MEMORY_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEAST_MEMORY = 4 << 20
WEIGHTS_SCHEME = "s3://"
"""How the URL of a bucket of weights begins; no reference and no path does."""
# fmt: off
_WORDS = (
    "amber", "ample", "brisk", "calm", "clear", "crisp", "eager", "fair", "fleet", "glad", "keen",
    "light", "merry", "neat", "prompt", "quick", "ready", "sharp", "spry", "swift", "vivid", "warm",
)
_THINGS = (
    "alder", "aspen", "badger", "beacon", "birch", "cedar", "comet", "ember", "falcon", "finch",
    "heron", "lark", "linden", "lynx", "maple", "otter", "quartz", "raven", "spark", "tern",
)
# fmt: on


def check_name(name: str) -> str:
    """Return ``name`` if it may name a container (it becomes a directory and a cgroup)."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:80]!r} cannot name a container",
            "use up to 63 of a-z, 0-9, '_', '.', '-', the first a letter or digit",
        )
    return name


def generate_name() -> str:
    """Return a name that is easy to type and unlikely to be taken."""
    return f"{secrets.choice(_WORDS)}-{secrets.choice(_THINGS)}-{secrets.token_hex(2)}"


@dataclass(frozen=True, slots=True)
class PortMapping:
    """TCP ``host`` port of the machine -> ``container`` port. No address: this machine only."""

    host: int
    container: int
    address: str = ""

    def __post_init__(self) -> None:
        for port in (self.host, self.container):
            if not 1 <= port <= _HIGHEST_PORT:
                raise UserError(f"port {port} does not exist", "ports are 1 to 65535")
        if self.address:
            _check_address(self.address)

    @classmethod
    def parse(cls, text: str) -> PortMapping:
        """Read ``[ADDR:]HOST:CONTAINER``."""
        address, _, rest = text.rpartition(":")
        before, _, host = address.rpartition(":")
        if not (host.isascii() and host.isdigit() and rest.isascii() and rest.isdigit()):
            raise UserError(f"not a port mapping: {text[:80]!r}", "write [ADDRESS:]HOST:CONTAINER")
        return cls(int(host), int(rest), before)

    @property
    def listen_address(self) -> str:
        """The IPv4 address on which the machine answers."""
        return self.address or "127.0.0.1"

    def __str__(self) -> str:
        return f"{self.listen_address}:{self.host}->{self.container}"


def _check_address(text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError as err:
        raise UserError(
            f"cannot publish on {text[:80]!r}", "give an IPv4 address of this machine, or none"
        ) from err


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory or file of the host, bound at ``container``. Both paths are absolute.

    ``host`` may be the URL of a bucket of weights, which the agent mounts and puts its path there.
    """

    host: str
    container: str
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.is_weights and not self.read_only:
            raise UserError(f"{self.host[:200]!r} can only be read", "use --weights URL:DIR")
        for path in (self.container,) if self.is_weights else (self.host, self.container):
            if not path.startswith("/") or "\0" in path:
                raise UserError(f"{path[:200]!r} is not an absolute path", "write /HOST:/CONTAINER")
        parts = [part for part in self.container.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or parts[0] in ("proc", "sys", "dev"):
            raise UserError(
                f"cannot bind anything at {self.container!r} in a container",
                "choose a path outside /, /proc, /sys and /dev",
            )

    @property
    def is_weights(self) -> bool:
        """Whether ``host`` is the URL of a bucket that is not mounted yet."""
        return self.host.startswith(WEIGHTS_SCHEME)

    @property
    def frozen_as(self) -> str:
        """What a snapshot says of it: where it was bound, with ``:ro`` if it was read-only."""
        return self.container.rstrip("/") + (":ro" if self.read_only else "")

    @classmethod
    def parse_weights(cls, text: str) -> Volume:
        """Read ``s3://bucket/prefix:DIR``."""
        url, _, container = text.rpartition(":")
        if not url.startswith(WEIGHTS_SCHEME) or not container.startswith("/"):
            raise UserError(f"not weights: {text[:200]!r}", "write s3://BUCKET/PREFIX:/DIRECTORY")
        return cls(url, container, read_only=True)

    @classmethod
    def parse(cls, text: str) -> Volume:
        """Read ``HOST:CONTAINER[:ro]``."""
        match text.split(":"):
            case [host, container]:
                return cls(host, container)
            case [host, container, ("ro" | "rw") as mode]:
                return cls(host, container, mode == "ro")
        raise UserError(f"not a volume: {text[:200]!r}", "write HOST:CONTAINER[:ro]")


def parse_memory(text: str) -> int:
    """Read ``512m``, ``2g`` or plain bytes."""
    match = re.fullmatch(r"(\d{1,18})([bkmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise UserError(f"not an amount of memory: {text[:40]!r}", "write 512m or 2g")
    return int(match[1]) * _MEMORY_UNITS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """One container as asked for. ``argv`` replaces the image's command, not its entrypoint."""

    name: str
    argv: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    ports: tuple[PortMapping, ...] = ()
    volumes: tuple[Volume, ...] = ()
    memory_bytes: int | None = None
    cpus: float | None = None
    ready: str | None = None
    ready_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        check_name(self.name)
        for entry in self.env:
            parse_variable(entry)
        _check_words(self)
        _check_limits(self)
        ports = [f"{port.listen_address}:{port.host}" for port in self.ports]
        _check_distinct(ports, "port", "published")
        _check_distinct([v.container.rstrip("/") for v in self.volumes], "path", "bound")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ContainerSpec:
        """Read what ``to_dict`` returned. Raises UserError for keys of another version."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise UserError(f"container spec has unknown keys {', '.join(sorted(unknown))}")
        argv = values.get("argv")
        return cls(
            **{
                **values,
                "argv": None if argv is None else tuple(argv),
                "env": tuple(values.get("env", ())),
                "ports": tuple(PortMapping(**p) for p in values.get("ports", ())),
                "volumes": tuple(Volume(**v) for v in values.get("volumes", ())),
            }
        )


def parse_variable(text: str) -> str:
    """Return ``text`` if it is KEY=VALUE. Raises UserError."""
    name, equals, value = text.partition("=")
    if not name or not equals or "\0" in value or "\0" in name:
        raise UserError(f"not an environment entry: {text[:80]!r}", "write KEY=VALUE")
    return text


def _check_words(spec: ContainerSpec) -> None:
    if any("\0" in word for word in spec.argv or ()):
        raise UserError(f"{spec.name}: an argument contains a NUL byte")
    if spec.workdir is not None and not spec.workdir.startswith("/"):
        raise UserError(f"{spec.name}: working directory {spec.workdir[:80]!r} is not absolute")
    if spec.hostname is not None and not _HOSTNAME.fullmatch(spec.hostname):
        raise UserError(
            f"{spec.name}: not a host name: {spec.hostname[:80]!r}",
            "use up to 64 letters, digits, '.' and '-'",
        )


def _check_limits(spec: ContainerSpec) -> None:
    if spec.memory_bytes is not None and spec.memory_bytes < _LEAST_MEMORY:
        raise UserError(
            f"{spec.name}: a memory limit of {spec.memory_bytes} bytes is too small to start in",
            f"allow at least {_LEAST_MEMORY >> 20} MiB",
        )
    if spec.cpus is not None and not spec.cpus >= 0.01:  # the kernel's least quota: 1 ms per 100 ms
        raise UserError(f"{spec.name}: {spec.cpus:g} cpus is too little", "give at least 0.01")
    if not spec.ready_timeout_s > 0:
        raise UserError(f"{spec.name}: the time to become ready must be positive")


def _check_distinct(values: Sequence[object], kind: str, verb: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{kind} {value} is {verb} twice", "name each once")
