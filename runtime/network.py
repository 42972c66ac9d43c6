"""Networks of containers: namespaces made ahead, a veth link each, ports published by NAT.

Every agent root has a subnet of its own (network_registry.py) and one NAT table (nat.py). The
host's end of each link has the same gateway address and a route to that one container; the
container's end is ``eth0``. Namespaces are kept at ROOT/run/netns/, not /run/netns, so that roots
live side by side and a private /run hides none of them.

The pool keeps ``spare`` networks ready: ``acquire`` takes one at once and a thread makes the
next, a moment later: whoever takes one is starting a container just now. ``release`` takes ports
back before it returns and destroys the rest in that thread. A published port is held by a bound
socket for as long as it is published, so that nobody else can take it and a port in use is refused.
All methods may be called from any thread.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from runtime.container_spec import PortMapping
from runtime.links import Network, Plumber, root_id
from runtime.nat import Forward, NatTable
from runtime.network_registry import DEFAULT_DIRECTORY, NetworkRegistry
from runtime.port_holder import PortHolder
from runtime.resolver import Resolver, host_resolver

log = get_logger(__name__)

_CALM_S = 0.3
"""Longer than a restore takes; making a network takes 15 ms of a core."""


class NetworkPool:
    """The networks of one agent root. Open it once; ``close`` leaves what is in use as it is."""

    def __init__(
        self,
        root: Path,
        *,
        spare: int = 2,
        registry_directory: Path = DEFAULT_DIRECTORY,
        in_use: Iterable[Network] = (),
    ) -> None:
        """Claim the subnet, make the table, remove what a dead agent left, but not ``in_use``."""
        self._registry = NetworkRegistry(root, registry_directory)
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ready: deque[Network] = deque()
        self._spare = spare
        self._closing = threading.Event()
        kept = {network.slot: network for network in in_use}
        self._forwarded = {network.slot for network in kept.values() if network.ports}
        self._plumber = Plumber(root, self._registry, kept)
        name = root_id(root)
        self._table = NatTable(f"hotstart_{name}", self._plumber.links, self._plumber.subnet)
        self._ports = PortHolder(self._registry)
        self._set_up(list(kept.values()))
        self._worker = threading.Thread(target=self._work, name="network-pool", daemon=True)
        self._worker.start()
        self._jobs.put(self._make_spare)

    def _set_up(self, in_use: list[Network]) -> None:
        self._plumber.remove_strangers()
        self._ports.hold_again([port for network in in_use for port in network.ports])
        forwards = [forward for network in in_use for forward in _forwards(network)]
        self._table.create(forwards, host_resolver(self._plumber.gateway).behind_gateway)

    @property
    def resolver(self) -> Resolver:
        """What containers of this root write into /etc/resolv.conf."""
        return host_resolver(self._plumber.gateway)

    def acquire(self) -> Network:
        """Return a network; release it in the end. Instant while spares last."""
        with self._lock:
            network = self._ready.popleft() if self._ready else None
        self._jobs.put(self._refill)
        return network or self._plumber.build()

    def isolated(self) -> Network:
        """Return a network with a loopback and nothing else, for rehearsals; release it."""
        return self._plumber.build(isolated=True)

    def publish(self, network: Network, ports: Sequence[PortMapping]) -> Network:
        """Publish ports, all or none; return the network with them. Raises PortInUse."""
        published = self.hold(network, ports)
        try:
            self.forward(published)
        except BaseException:
            self._ports.let_go(ports)
            raise
        return published

    def hold(self, network: Network, ports: Sequence[PortMapping]) -> Network:
        """Take ports, all or none, that nobody else can then; nothing answers on them yet.

        ``forward`` is the rest of publishing. Raises PortInUse.
        """
        if not ports:
            return network
        self._ports.hold(ports)
        return network.with_ports(ports)

    def forward(self, network: Network) -> None:
        """Have the held ports lead to the container.

        Takes as long as nft takes to read what is in the kernel: 3 ms here, far more on a host
        with many rules of others.
        """
        if network.ports:
            self._table.add(_forwards(network))
            with self._lock:
                self._forwarded.add(network.slot)

    def unpublish(self, network: Network) -> None:
        """Take the network's ports back; nobody answers on them when this returns."""
        with self._lock:
            forwarded = network.slot in self._forwarded
            self._forwarded.discard(network.slot)
        if forwarded:
            self._table.remove(_forwards(network))
        if network.ports:
            self._ports.let_go(network.ports)

    def release(self, network: Network) -> None:
        """Take the ports back now, and destroy namespace and link soon."""
        try:
            self.unpublish(network)
        finally:
            self._jobs.put(partial(self._plumber.destroy, network))

    def close(self, *, remove: bool = False) -> None:
        """End the thread and destroy the spares; with ``remove`` also table and subnet. Idempotent.

        With ``remove`` no container may run any more: every network of the root goes.
        """
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            spares = list(self._ready)
            self._ready.clear()
        for network in spares:
            self._jobs.put(partial(self._plumber.destroy, network))
        self._jobs.put(None)
        self._worker.join()
        self._ports.close()
        if remove:
            self._plumber.remove_strangers(everything=True)
            self._table.destroy()
            self._registry.release_subnet()

    def _refill(self) -> None:
        if self._wants_spare():
            self._closing.wait(_CALM_S)
            self._make_spare()

    def _wants_spare(self) -> bool:
        with self._lock:
            return not self._closing.is_set() and len(self._ready) < self._spare

    def _make_spare(self) -> None:
        if not self._wants_spare():
            return
        network = self._plumber.build()
        with self._lock:
            wanted = not self._closing.is_set()
            if wanted:
                self._ready.append(network)
        if wanted:
            self._jobs.put(self._make_spare)
        else:
            self._plumber.destroy(network)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except (HotstartError, OSError) as err:
                log.warning("network_job_failed", error=err)


def _forwards(network: Network) -> list[Forward]:
    return [
        Forward(port.listen_address, port.host, network.address, port.container)
        for port in network.ports
    ]
