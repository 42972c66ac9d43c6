"""Network namespaces and the veth links that lead into them.

The host's end of a link is called ``hs<root id>-<slot>``; a slot is the last number of the
container's address, so slots, links and addresses of one root never collide. Slots are used in
turn, the longest unused first. ``Network`` is a value that may be stored; it owns nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hotstart.core.errors import Unavailable
from hotstart.core.log import get_logger
from hotstart.core.run import CommandFailed, run
from hotstart.kernel.namespaces import call_in_network, create_network, remove_network
from runtime.container_spec import PortMapping
from runtime.network_registry import NetworkRegistry

log = get_logger(__name__)

_TIMEOUT_S = 30.0
_FIRST_SLOT, _LAST_SLOT = 2, 254
_DEFAULT_MTU = 1500


class NoSlotLeft(Unavailable):
    """Every address of this root's subnet is in use."""


@dataclass(frozen=True, slots=True)
class Network:
    """A container's network: its namespace's path, and its address (empty when isolated)."""

    slot: int
    netns: str
    address: str = ""
    gateway: str = ""
    link: str = ""
    ports: tuple[PortMapping, ...] = ()

    @property
    def path(self) -> Path:
        """The file that keeps the namespace."""
        return Path(self.netns)

    def with_ports(self, ports: Sequence[PortMapping]) -> Network:
        """Return the network with these ports added."""
        return replace(self, ports=(*self.ports, *ports))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Network:
        """Read what ``to_dict`` returned."""
        ports = tuple(PortMapping(**port) for port in values["ports"])
        return cls(**{**values, "ports": ports})


def root_id(root: Path) -> str:
    """Return six characters that tell this root's things in the kernel from other roots'."""
    return hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]


class Plumber:
    """Builds and destroys networks of one root. Safe to use from several threads."""

    def __init__(
        self, root: Path, registry: NetworkRegistry, in_use: Mapping[int, Network]
    ) -> None:
        self.subnet = registry.claim_subnet(_routed)
        self.gateway = str(self.subnet.network_address + 1)
        self.links = f"hs{root_id(root)}-"
        self._directory = root / "run" / "netns"
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._mtu = _uplink_mtu()
        self._lock = threading.Lock()
        self._in_use = set(in_use)
        self._next = _FIRST_SLOT
        _enable_forwarding()

    def build(self, *, isolated: bool = False) -> Network:
        """Return a new network; about 15 ms. Raises NoSlotLeft."""
        slot = self._take_slot()
        path = self._directory / f"{'isolated' if isolated else 'net'}-{slot}"
        network = Network(slot, str(path))
        if not isolated:
            network = replace(
                network,
                address=str(self.subnet.network_address + slot),
                gateway=self.gateway,
                link=f"{self.links}{slot}",
            )
        try:
            create_network(path)
            self._connect(network)
        except BaseException:
            self.destroy(network)
            raise
        return network

    def destroy(self, network: Network) -> None:
        """Remove link and namespace, then free the slot. Idempotent."""
        if network.link:
            _delete_link(network.link)
        remove_network(network.path)
        with self._lock:
            self._in_use.discard(network.slot)

    def remove_strangers(self, *, everything: bool = False) -> None:
        """Remove namespaces and links of this root that are not in use, or all of them."""
        with self._lock:
            slots = set() if everything else set(self._in_use)
        for path in self._directory.iterdir():
            if int(path.name.rpartition("-")[2]) not in slots:
                remove_network(path)
        for link in _host_links(self.links):
            if int(link.rpartition("-")[2]) not in slots:
                _delete_link(link)

    def _take_slot(self) -> int:
        count = _LAST_SLOT - _FIRST_SLOT + 1
        with self._lock:
            for step in range(count):
                slot = _FIRST_SLOT + (self._next - _FIRST_SLOT + step) % count
                if slot not in self._in_use:
                    self._in_use.add(slot)
                    self._next = slot + 1
                    return slot
        raise NoSlotLeft(f"all {count} addresses of {self.subnet} are in use; stop a container")

    def _connect(self, network: Network) -> None:
        if network.link:
            _ip(
                f"link add {network.link} mtu {self._mtu} type veth"
                f" peer name eth0 mtu {self._mtu} netns {network.netns}\n"
            )
            _per_link("ipv4", network.link, "route_localnet", "1")
            _per_link("ipv6", network.link, "disable_ipv6", "1")
            _ip(
                f"address add {self.gateway}/32 dev {network.link}\n"
                f"link set {network.link} up\n"
                f"route add {network.address}/32 dev {network.link}\n"
            )
        call_in_network(network.path, lambda: _configure_inside(network))


def _configure_inside(network: Network) -> None:
    # As other runtimes do: a server that isn't root may listen on port 80 of its own network.
    _sysctl("net/ipv4/ip_unprivileged_port_start", "0")
    commands = "link set lo up\n"
    if network.link:
        commands += (
            f"address add {network.address}/32 dev eth0\n"
            "link set eth0 up\n"
            f"route add {network.gateway}/32 dev eth0\n"
            f"route add default via {network.gateway}\n"
        )
    _ip(commands)


def _ip(commands: str) -> None:
    try:
        run(["ip", "-batch", "-"], stdin=commands.encode(), timeout_s=_TIMEOUT_S)
    except CommandFailed as err:
        # The last line says only where in the batch; what is before it says why.
        why = "; ".join(err.stderr.strip().splitlines())
        raise CommandFailed(err.argv, err.status, why) from err


def _delete_link(link: str) -> None:
    """Deleting one end deletes both; the namespace's death does it too, later."""
    try:
        run(["ip", "link", "delete", link], timeout_s=_TIMEOUT_S)
    except CommandFailed as err:
        if "Cannot find device" not in err.stderr:
            raise


def _host_links(prefix: str) -> list[str]:
    # Not /sys/class/net, which shows the namespace in which /sys was mounted.
    return [name for _, name in socket.if_nameindex() if name.startswith(prefix)]


def _routed() -> list[ipaddress.IPv4Network]:
    """Return the networks that this host has a route to, default routes left out."""
    routes = json.loads(run(["ip", "-4", "-json", "route"], timeout_s=_TIMEOUT_S).stdout or "[]")
    texts = [route["dst"] for route in routes if route.get("dst", "default") != "default"]
    return [ipaddress.IPv4Network(text, strict=False) for text in texts]


def _uplink_mtu() -> int:
    """Return the MTU of the default route, so that containers never send what it can't carry."""
    command = ["ip", "-4", "-json", "route", "show", "default"]
    for route in json.loads(run(command, timeout_s=_TIMEOUT_S).stdout or "[]"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(Path("/sys/class/net", route["dev"], "mtu").read_text())
    return _DEFAULT_MTU


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


def _per_link(family: str, link: str, name: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a host without IPv6 has no such setting
        _sysctl(f"net/{family}/conf/{link}/{name}", value)


def _enable_forwarding() -> None:
    """Containers are behind a router: us. Left on at the end, since others may rely on it then."""
    path = Path("/proc/sys/net/ipv4/ip_forward")
    if path.read_text().strip() == "0":
        log.info("ip_forward_enabled", was=0)
        path.write_text("1")
