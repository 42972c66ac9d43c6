"""One nftables table per agent: masquerade outward, published ports inward, spoofing refused.

``nft`` applies each input as one transaction. Packets to 127.0.0.1 can be sent to a container
because its link has ``route_localnet``; so that a container cannot use that to reach the host's
own loopback services, anything that arrives from a container for 127.0.0.0/8 is dropped before
connection tracking (replies carry the gateway's address at that point). Other firewalls on the
host still have their say: a table of ours cannot allow what another one drops.

Somebody may flush the whole ruleset: Debian does when its nftables service is reloaded. So the
table knows what it is to hold, and is made anew where the kernel's lacks it (``restore``, and
whatever a change fails for). Methods may be called from any thread.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from hotstart.core.log import get_logger
from hotstart.core.run import CommandFailed, run

log = get_logger(__name__)

_TIMEOUT_S = 30.0
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - written into a rule, never bound to


@dataclass(frozen=True, slots=True)
class Forward:
    """One published port: ``address``:``port`` of the host -> ``target``:``target_port``."""

    address: str
    port: int
    target: str
    target_port: int


class NatTable:
    """The table ``name``. ``links`` is the common start of the host's ends of container links."""

    def __init__(self, name: str, links: str, subnet: ipaddress.IPv4Network) -> None:
        self._name = name
        self._links = links
        self._subnet = subnet
        self._lock = threading.Lock()
        self._held: tuple[Forward, ...] = ()
        self._dns: str | None = None

    def create(self, forwards: Sequence[Forward] = (), dns: str | None = None) -> None:
        """Make the table anew, replacing one of the same name in the same transaction.

        ``dns`` is a name server on the host's loopback that containers reach at their gateway.
        """
        with self._lock:
            self._dns = dns
            self._make(forwards)
            self._held = tuple(forwards)

    def add(self, forwards: Sequence[Forward]) -> None:
        """Publish ports, all or none."""
        with self._lock:
            held = (*self._held, *forwards)
            self._change("add", forwards, held)
            self._held = held

    def remove(self, forwards: Sequence[Forward]) -> None:
        """Stop publishing ports, all or none; whatever fails, none of them comes back."""
        with self._lock:
            self._held = tuple(one for one in self._held if one not in forwards)
            self._change("delete", forwards, self._held)

    def restore(self) -> None:
        """Make the table anew if it is gone."""
        with self._lock:
            look = ["nft", "-t", "list", "table", "ip", self._name]
            if run(look, check=False, timeout_s=_TIMEOUT_S).status:
                log.warning("nat_table_was_gone", table=self._name)
                self._make(self._held)

    def destroy(self) -> None:
        """Remove the table. Idempotent."""
        with self._lock:
            self._held = ()
            _nft(f"add table ip {self._name}\ndelete table ip {self._name}\n")

    def _change(self, verb: str, forwards: Sequence[Forward], held: Sequence[Forward]) -> None:
        try:
            _nft(self._elements(verb, forwards))
        except CommandFailed as err:
            log.warning("nat_table_made_anew", table=self._name, reason=err)
            self._make(held)

    def _make(self, forwards: Sequence[Forward]) -> None:
        # "add" first: deleting a table that isn't there would fail the transaction.
        _nft(
            f"add table ip {self._name}\ndelete table ip {self._name}\n"
            f"{self._rules(self._dns)}{self._elements('add', forwards)}"
        )

    def _elements(self, verb: str, forwards: Sequence[Forward]) -> str:
        lines = []
        for forward in forwards:
            target = f"{forward.target} . {forward.target_port}"
            if forward.address == _EVERY_ADDRESS:
                element = f"anywhere {{ {forward.port} : {target} }}"
            else:
                element = f"here {{ {forward.address} . {forward.port} : {target} }}"
            lines.append(f"{verb} element ip {self._name} {element}\n")
        return "".join(lines)

    def _rules(self, dns: str | None) -> str:
        links, subnet = f'"{self._links}*"', self._subnet
        publish = (
            "dnat ip to ip daddr . tcp dport map @here\n"
            "fib daddr type local dnat ip to tcp dport map @anywhere"
        )
        gateway = self._subnet.network_address + 1
        forward_dns = "".join(
            f"iifname {links} ip daddr {gateway} {kind} dport 53 dnat to {dns}\n"
            for kind in ("udp", "tcp")
            if dns is not None
        )
        return f"""
table ip {self._name} {{
  map here {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}
  map anywhere {{ type inet_service : ipv4_addr . inet_service; }}
  chain refuse {{
    type filter hook prerouting priority -300;
    iifname {links} ip saddr != {subnet} drop
    iifname {links} ip daddr 127.0.0.0/8 drop
  }}
  chain publish {{
    type nat hook prerouting priority -100;
    {forward_dns}{publish}
  }}
  chain publish_local {{
    type nat hook output priority -100;
    {publish}
  }}
  chain leave {{
    type nat hook postrouting priority 100;
    ip saddr 127.0.0.0/8 oifname {links} masquerade
    ip saddr {subnet} oifname {links} ct status dnat masquerade
    ip saddr {subnet} oifname != {links} oifname != "lo" masquerade
  }}
}}
"""


def _nft(rules: str) -> None:
    if rules:
        run(["nft", "-f", "-"], stdin=rules.encode(), timeout_s=_TIMEOUT_S)
