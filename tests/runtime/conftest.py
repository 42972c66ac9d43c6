"""A network pool and one small root file system for the runtime tests that make containers."""

import contextlib
import os
import secrets
import threading

import psutil
import pytest

from hotstart.kernel.cgroup import Group
from runtime.container_spec import ContainerSpec
from runtime.links import root_id
from runtime.network import NetworkPool
from tests.runtime.small_container import make_rootfs, started
from tests.runtime.small_image import SmallNode


@pytest.fixture(autouse=True)
def init():
    """Do what init does on a host: collect what runc leaves behind in a container that is ending.

    This process is a subreaper, so they come to us, and until somebody has collected them, the
    container's pid namespace and with it the container cannot end (pid_namespaces(7)).
    """
    done = threading.Event()

    def collect():
        while not done.wait(0.05):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                    if child.status() == psutil.STATUS_ZOMBIE and child.name().startswith("runc:["):
                        os.waitpid(child.pid, os.WNOHANG)

    thread = threading.Thread(target=collect)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.fixture
def container_root(tmp_path):
    yield tmp_path
    assert Group.named(f"/hotstart-{root_id(tmp_path)}").remove()


@pytest.fixture
def pool(container_root):
    pool = NetworkPool(container_root, spare=0)
    yield pool
    pool.close(remove=True)


@pytest.fixture(scope="module")
def small_node(tmp_path_factory):
    """The parts of an agent, for the tests of one module."""
    node = SmallNode(tmp_path_factory.mktemp("node"))
    yield node
    node.close()


@pytest.fixture(scope="session")
def lower(tmp_path_factory):
    return make_rootfs(tmp_path_factory.mktemp("lower"))


@pytest.fixture
def start(container_root, pool, lower):
    """Return a context manager that starts ``sh -c SCRIPT`` with the fields of a spec."""

    @contextlib.contextmanager
    def start(script, *, log_max_bytes=None, criu_config=None, env_of_runc=None, **fields):
        name = fields.pop("name", f"small-{secrets.token_hex(3)}")
        argv = ("sh", "-c", script) if isinstance(script, str) else tuple(script)
        spec = ContainerSpec(name=name, argv=argv, **fields)
        network = pool.acquire()
        try:
            network = pool.publish(network, spec.ports)
            with started(
                container_root,
                lower,
                network,
                spec,
                log_max_bytes=log_max_bytes,
                criu_config=criu_config,
                env=env_of_runc,
            ) as container:
                yield container
        finally:
            pool.release(network)

    return start
