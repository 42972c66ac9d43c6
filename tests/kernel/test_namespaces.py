"""Namespaces entered by single threads: the rest of the process never notices."""

import os
import socket

import pytest

from hotstart.core.run import run
from hotstart.kernel.mounts import is_mounted, mounts_at, tmpfs
from hotstart.kernel.namespaces import (
    call_in_network,
    call_in_private_mounts,
    create_network,
    remove_network,
    same_namespace,
)

pytestmark = pytest.mark.kernel


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net"
    create_network(path)
    yield path
    remove_network(path)


def _links():
    return sorted(name for _, name in socket.if_nameindex())


def test_new_network_has_a_loopback_alone(network):
    outside = _links()
    assert call_in_network(network, _links) == ["lo"]
    assert _links() == outside


def test_socket_keeps_the_network_in_which_it_was_made(network):
    call_in_network(network, lambda: run(["ip", "link", "set", "lo", "up"]))
    with call_in_network(network, lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        address = listener.getsockname()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address, timeout=5)
        with call_in_network(network, lambda: socket.create_connection(address, timeout=5)):
            listener.accept()[0].close()


def test_programs_inherit_the_network(network):
    assert call_in_network(network, lambda: run(["ip", "-brief", "link"]).text).startswith("lo ")


def test_errors_of_the_function_come_back(network):
    with pytest.raises(ZeroDivisionError):
        call_in_network(network, lambda: 1 // 0)


def test_plain_file_is_no_network(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="setns"):
        call_in_network(tmp_path / "file", _links)


def test_path_in_use_is_refused_and_stays(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        create_network(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_removed_network_is_gone(tmp_path):
    path = tmp_path / "net"
    create_network(path)
    assert mounts_at(path)[0].fstype == "nsfs"
    assert not same_namespace(path, os.getpid())
    remove_network(path)
    assert not path.exists()
    remove_network(path)


def test_private_mounts_are_seen_inside_alone(tmp_path):
    def inside():
        tmpfs(tmp_path, mode=0o700, size_bytes=1 << 20)
        (tmp_path / "seen").touch()
        return run(["ls", str(tmp_path)]).text

    assert call_in_private_mounts(inside) == "seen\n"
    assert not is_mounted(tmp_path)
    assert list(tmp_path.iterdir()) == []
