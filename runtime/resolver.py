"""Which name servers a container asks: the host's, where it can reach them.

A name server on the host's loopback cannot be reached from a container. systemd-resolved keeps
the real ones in another file; without it, the container asks its gateway, and the agent's NAT
table passes the question on (nat.py).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

HOST_FILE = Path("/etc/resolv.conf")
RESOLVED_FILE = Path("/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True, slots=True)
class Resolver:
    """Text of a container's /etc/resolv.conf, and the loopback server behind its gateway if any."""

    text: str
    behind_gateway: str | None = None


def host_resolver(
    gateway: str, host_file: Path = HOST_FILE, resolved_file: Path = RESOLVED_FILE
) -> Resolver:
    """Derive a container's resolver from the host's. A host without one gives an empty file."""
    for path in (host_file, resolved_file):
        lines = _lines(path)
        servers = [line.split()[1] for line in lines if _is_server(line)]
        if any(not _is_loopback(server) for server in servers):
            return Resolver(_without_loopback(lines))
    local = [line.split()[1] for line in _lines(host_file) if _is_server(line)]
    version_4 = next((server for server in local if ":" not in server), None)
    if version_4 is None:
        return Resolver("")
    others = [line for line in _lines(host_file) if not _is_server(line)]
    return Resolver("".join(f"{line}\n" for line in [f"nameserver {gateway}", *others]), version_4)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and line[0] not in "#;"]


def _is_server(line: str) -> bool:
    return line.split()[0] == "nameserver" and len(line.split()) > 1


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _without_loopback(lines: list[str]) -> str:
    kept = [line for line in lines if not (_is_server(line) and _is_loopback(line.split()[1]))]
    return "".join(f"{line}\n" for line in kept)
