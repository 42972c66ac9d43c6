"""Networks of containers: namespaces made ahead, a veth link each, ports published by NAT.

Every agent root has a subnet of its own (network_registry.py) and one NAT table (nat.py). The
host's end of each link has the same gateway address and a route to that one container; the
container's end is ``eth0``. Namespaces are kept at ROOT/run/netns/, not /run/netns, so that roots
live side by side and a private /run hides none of them.

The pool keeps ``spare`` networks ready: ``acquire`` takes one at once, and a thread makes the next
once nobody has taken one for a moment: whoever takes one is starting a container just now.
``release`` takes ports back before it returns and destroys the rest in that thread, meanwhile. A
published port is held by a bound socket for as long as it is published, so that nobody else can
take it and a port in use is refused. All methods may be called from any thread.
"""

from __future__ import annotations

import queue
import threading
import time
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


_LOOK_EACH_S = 5.0
"""How often an idle pool looks whether somebody has flushed its table."""


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
        self._refill_at: float | None = 0.0
        """When the next spare is made, on the monotonic clock; None: not before one is taken."""
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
            self._refill_at = time.monotonic() + _CALM_S
        self._jobs.put(_look_again)
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
        try:
            if forwarded:
                self._table.remove(_forwards(network))
        finally:
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

    def _until_refill(self) -> float | None:
        """Return for how many seconds no spare is to be made; None: until one is taken."""
        with self._lock:
            if self._closing.is_set() or len(self._ready) >= self._spare or self._refill_at is None:
                return None
            return max(0.0, self._refill_at - time.monotonic())

    def _make_spare(self) -> None:
        with self._lock:
            due, self._refill_at = self._refill_at, None  # what fails is not tried over and over
        network = self._plumber.build()
        with self._lock:
            wanted = not self._closing.is_set()
            if wanted:
                self._ready.append(network)
                self._refill_at = self._refill_at or due
        if not wanted:
            self._plumber.destroy(network)

    def _work(self) -> None:
        """Carry out jobs as they come; make a spare where nothing else is to be done."""
        while True:
            pause_s = self._until_refill()
            idle = pause_s is None or pause_s > _LOOK_EACH_S
            try:
                job = self._jobs.get(timeout=_LOOK_EACH_S if idle else pause_s)
            except queue.Empty:
                if pause_s and not idle:
                    continue  # somebody may have taken one since
                job = self._table.restore if idle else self._make_spare
            if job is None:
                return
            try:
                job()
            except (HotstartError, OSError) as err:
                log.warning("network_job_failed", error=err)


def _look_again() -> None:
    """Wake the thread, which then sees when the next spare is due."""


def _forwards(network: Network) -> list[Forward]:
    return [
        Forward(port.listen_address, port.host, network.address, port.container)
        for port in network.ports
    ]
