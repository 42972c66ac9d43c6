"""Holds published ports of the host, so that nobody else can take them while they are published.

NAT would take packets away from a server that listens on the same port without anyone noticing.
So each published port is claimed in the registry (other agents, even ones not running) and bound
by a socket that never listens (everybody else): a port in use fails here, before the container
starts, and stays ours until it is let go.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Sequence

from hotstart.core.errors import UserError
from hotstart.core.log import get_logger
from runtime.container_spec import PortMapping
from runtime.network_registry import NetworkRegistry, PortInUse

log = get_logger(__name__)


class PortHolder:
    """The ports that one agent holds. Sockets close with ``let_go`` and ``close``."""

    def __init__(self, registry: NetworkRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], list[socket.socket]] = {}

    def hold(self, ports: Sequence[PortMapping]) -> None:
        """Claim and bind every port, or none. Raises PortInUse, or UserError for the address."""
        keys = _keys(ports)
        self._registry.claim_ports(keys)
        try:
            self._bind_all(keys)
        except BaseException:
            self.let_go(ports)
            raise

    def hold_again(self, ports: Sequence[PortMapping]) -> None:
        """Take over ports of containers that outlived an agent; never fails: they are published."""
        keys = _keys(ports)
        self._registry.forget_ports(keys)
        for key in keys:
            try:
                self._bind_all([key])
            except (PortInUse, UserError) as err:
                log.warning("published_port_taken", address=key[0], port=key[1], error=err)

    def let_go(self, ports: Sequence[PortMapping]) -> None:
        """Give the ports back. Idempotent."""
        keys = _keys(ports)
        with self._lock:
            sockets = [held for key in keys for held in self._held.pop(key, [])]
        for held in sockets:
            held.close()
        self._registry.release_ports(keys)

    def close(self) -> None:
        """Close the sockets but keep the claims: the containers go on."""
        with self._lock:
            sockets = [held for several in self._held.values() for held in several]
            self._held.clear()
        for held in sockets:
            held.close()

    def _bind_all(self, keys: Sequence[tuple[str, int]]) -> None:
        for key in keys:
            held = [_bind(*key)]
            if key[0] == "127.0.0.1":  # then "localhost" must not lead to somebody else either
                held += _bind_version_6(key[1])
            with self._lock:
                self._held[key] = held


def _keys(ports: Sequence[PortMapping]) -> list[tuple[str, int]]:
    return [(port.listen_address, port.host) for port in ports]


def _bind(address: str, port: int) -> socket.socket:
    """Bind. Connections in TIME_WAIT of a server that has ended are no obstacle."""
    for reuse in (0, 1):
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Without it first: only then does the kernel keep others off a port nobody listens on.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            holder.bind((address, port))
        except OSError as err:
            holder.close()
            if err.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"cannot publish port {port}: {address} is not an address of this machine",
                    "leave the address out, or use 0.0.0.0 for every address",
                ) from err
            if err.errno != errno.EADDRINUSE:
                raise
        else:
            return holder
    raise PortInUse(address, port, "another program")


def _bind_version_6(port: int) -> list[socket.socket]:
    """Hold [::1] too where the host has it; refuse if somebody else listens there."""
    try:
        holder = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return []
    try:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("::1", port))
    except OSError as err:
        holder.close()
        if err.errno == errno.EADDRINUSE:
            raise PortInUse("::1", port, "another program") from err
        return []
    return [holder]
