"""Where metrics are served: HOST:PORT, checked and listened on. Knows nothing of metrics."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

from hotstart.core.errors import Conflict, UserError

_BACKLOG = 16
_HINT = "write HOST:PORT, for example 127.0.0.1:9464"


class MetricsAddressUnusable(UserError):
    """Metrics cannot be served at an address."""


class MetricsAddressTaken(Conflict):
    """Another program, or another agent, listens there."""


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """A host by name or address and a TCP port; port 0: one that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> MetricsAddress:
        """Parse HOST:PORT, or [HOST]:PORT of IPv6. Raises MetricsAddressUnusable."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        in_brackets = host == f"[{bare}]"
        if not colon or not bare or (":" in bare and not in_brackets):
            raise MetricsAddressUnusable(f"not an address: {text[:80]!r}", _HINT)
        if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 1 << 16):
            raise MetricsAddressUnusable(f"not a port: {port[:80]!r}", _HINT)
        return cls(bare, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """What Prometheus is given to scrape."""
        return f"http://{self}/metrics"

    def is_served_at(self, url: str) -> bool:
        """Tell whether ``url`` is this address, or with port 0 this host."""
        if self.port:
            return self.url == url
        return url.rpartition(":")[0] == self.url.rpartition(":")[0]

    def listen(self) -> socket.socket:
        """Listen there and nowhere else; the caller closes the socket.

        Of a name's addresses the first is taken. Raises MetricsAddressTaken,
        MetricsAddressUnusable.
        """
        listening = None
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM
            )[0]
            listening = socket.socket(family, kind, protocol)
            # An agent that follows another need not wait for its last connections (TIME_WAIT).
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(_BACKLOG)
        except (OSError, UnicodeError) as err:
            if listening is not None:
                listening.close()
            raise self._refusal(err) from err
        return listening

    def _refusal(self, err: OSError | UnicodeError) -> UserError:
        if isinstance(err, OSError) and err.errno == errno.EADDRINUSE:
            return MetricsAddressTaken(
                f"metrics cannot be served at {self}: another program listens there",
                "choose another port, or 0 for any that is free",
            )
        if isinstance(err, (UnicodeError, socket.gaierror)):
            reason = "no such host"
        else:
            reason = os.strerror(err.errno or 0).lower()
        return MetricsAddressUnusable(
            f"metrics cannot be served at {self}: {reason}", "give an address of this machine"
        )
