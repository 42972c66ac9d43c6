"""One nftables table per agent: masquerade outward, published ports inward, spoofing refused.

``nft`` applies each input as one transaction. Packets to 127.0.0.1 can be sent to a container
because its link has ``route_localnet``; so that a container cannot use that to reach the host's
own loopback services, anything that arrives from a container for 127.0.0.0/8 is dropped before
connection tracking (replies carry the gateway's address at that point). Other firewalls on the
host still have their say: a table of ours cannot allow what another one drops.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from hotstart.core.run import run

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

    def create(self, forwards: Sequence[Forward] = (), dns: str | None = None) -> None:
        """Make the table anew, replacing one of the same name in the same transaction.

        ``dns`` is a name server on the host's loopback that containers reach at their gateway.
        """
        # "add" first: deleting a table that isn't there would fail the transaction.
        _nft(
            f"add table ip {self._name}\ndelete table ip {self._name}\n"
            f"{self._rules(dns)}{self._elements('add', forwards)}"
        )

    def add(self, forwards: Sequence[Forward]) -> None:
        """Publish ports, all or none."""
        _nft(self._elements("add", forwards))

    def remove(self, forwards: Sequence[Forward]) -> None:
        """Stop publishing ports, all or none."""
        _nft(self._elements("delete", forwards))

    def destroy(self) -> None:
        """Remove the table. Idempotent."""
        _nft(f"add table ip {self._name}\ndelete table ip {self._name}\n")

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
