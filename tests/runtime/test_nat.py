"""The NAT table without a kernel: what is asked of nft."""

import ipaddress

from hotstart.core.run import Completed
from runtime import nat
from runtime.nat import Forward, NatTable


def test_no_nft_is_waited_for_for_ever(monkeypatch):
    """The table's lock is held meanwhile."""
    limits = []

    def run(argv, *, timeout_s=None, **_):
        limits.append(timeout_s)
        return Completed(1, b"", b"")

    monkeypatch.setattr(nat, "run", run)
    table = NatTable("t", "l", ipaddress.IPv4Network("10.0.0.0/24"))
    forward = Forward("127.0.0.1", 1, "10.0.0.2", 2)
    table.create()
    table.add([forward])
    table.restore()
    table.remove([forward])
    table.destroy()
    assert len(limits) == 6
    assert all(limits)
