"""Which agent of this machine has which subnet and which published ports.

One small JSON file in /run/hotstart, changed under an exclusive flock and replaced atomically, so
that any number of agents with different roots never collide. Entries of an earlier boot, and of
roots that no longer exist, count for nothing. Needs root.

    {"boot": ID, "roots": {ROOT: {"subnet": "10.201.3.0/24", "ports": ["127.0.0.1:8080"]}}}
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hotstart.core.errors import Conflict, Unavailable

DEFAULT_DIRECTORY = Path("/run/hotstart")
_RANGE = ipaddress.IPv4Network("10.201.0.0/16")
_SUBNET_BITS = 24
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - compared with, never bound to


class PortInUse(Conflict):
    """The port of the host is taken."""

    def __init__(self, address: str, port: int, holder: str) -> None:
        super().__init__(
            f"port {port} on {address} is in use by {holder}", "publish another port with -p"
        )
        self.address = address
        self.port = port


class NoSubnetLeft(Unavailable):
    """Every subnet is taken by an agent or routed elsewhere."""


class NetworkRegistry:
    """The registry as seen by the agent at ``root``."""

    def __init__(self, root: Path, directory: Path = DEFAULT_DIRECTORY) -> None:
        self._root = str(root.resolve())
        self._directory = directory
        self._file = directory / "network.json"

    def claim_subnet(
        self, routed: Callable[[], Sequence[ipaddress.IPv4Network]]
    ) -> ipaddress.IPv4Network:
        """Return this root's subnet, claiming one that nobody has and nobody routes."""
        with self._locked() as roots:
            if self._root in roots:
                return ipaddress.IPv4Network(roots[self._root]["subnet"])
            taken = [ipaddress.IPv4Network(entry["subnet"]) for entry in roots.values()]
            taken += routed()
            for subnet in _RANGE.subnets(new_prefix=_SUBNET_BITS):
                if not any(subnet.overlaps(other) for other in taken):
                    roots[self._root] = {"subnet": str(subnet), "ports": []}
                    return subnet
            raise NoSubnetLeft(f"no free subnet in {_RANGE}; stop an agent or free a route")

    def claim_ports(self, ports: Sequence[tuple[str, int]]) -> None:
        """Claim (address, port) pairs, all or none. Raises PortInUse, naming the root."""
        with self._locked() as roots:
            for address, port in ports:
                for root, entry in roots.items():
                    if any(_overlap(address, port, other) for other in entry["ports"]):
                        raise PortInUse(address, port, f"a container of the agent at {root}")
            mine = roots[self._root]["ports"]
            mine += [f"{address}:{port}" for address, port in ports]

    def release_ports(self, ports: Sequence[tuple[str, int]]) -> None:
        """Give claimed ports back. Idempotent."""
        gone = {f"{address}:{port}" for address, port in ports}
        with self._locked() as roots:
            if self._root in roots:
                mine = roots[self._root]
                mine["ports"] = [text for text in mine["ports"] if text not in gone]

    def forget_ports(self, keep: Sequence[tuple[str, int]]) -> None:
        """Drop every claim of this root but ``keep``: what an agent that died left behind."""
        with self._locked() as roots:
            if self._root in roots:
                roots[self._root]["ports"] = [f"{address}:{port}" for address, port in keep]

    def release_subnet(self) -> None:
        """Give the subnet and all ports back."""
        with self._locked() as roots:
            roots.pop(self._root, None)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(
            self._directory / "network.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            roots = self._read()
            before = json.dumps(roots)
            yield roots
            if json.dumps(roots) != before:
                self._write(roots)
        finally:
            os.close(lock)

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        if document["boot"] != _boot_id():
            return {}
        return {r: e for r, e in document["roots"].items() if r == self._root or Path(r).exists()}

    def _write(self, roots: dict[str, Any]) -> None:
        staged = self._file.with_suffix(".staged")
        staged.write_text(json.dumps({"boot": _boot_id(), "roots": roots}, indent=1))
        staged.rename(self._file)


def _overlap(address: str, port: int, taken: str) -> bool:
    other, _, number = taken.rpartition(":")
    return int(number) == port and (address == other or _EVERY_ADDRESS in (address, other))


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
