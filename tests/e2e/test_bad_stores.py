"""What a store that can't take writes makes of a build and of a snapshot: the exit code of the
table, one sentence, every reference as it was, and the container runs on."""

import os
from pathlib import Path

import pytest

from hotstart.kernel.mounts import MS_RDONLY, MS_REMOUNT, mount
from tests.e2e.conftest import SLEEP, Hotstart
from tests.e2e.test_bad_input import UNAVAILABLE, USER, refused
from tests.faults import store_proxy as spoiled
from tests.faults.store_proxy import StoreProxy
from tests.requires import requires

pytestmark = pytest.mark.e2e

DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


@pytest.fixture
def tree(scratch):
    """A root directory with a shell."""
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
        (scratch / "tree" / name).mkdir(parents=True)
    (scratch / "tree/bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (scratch / "tree/bin/busybox").chmod(0o755)
    for name in ("sh", "sleep"):
        (scratch / "tree/bin" / name).symlink_to("busybox")
    return scratch / "tree"


def rooted(path, store):
    """A root on a store; its agent is ended at last."""
    command = Hotstart(path, store)
    yield command
    command.ok("agent", "stop", "--all")


@pytest.fixture
def small(scratch, small_file_system):
    """A root whose store lies on a file system of 64 MiB."""
    yield from rooted(scratch / "s", small_file_system / "store")


def named(command):
    """Every reference and what it points to."""
    images = command.ok("images", "--json").document["images"]
    return sorted((image["reference"], image["digest"]) for image in images)


@requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon", "criu", "userfaultfd_events")
def test_a_store_that_is_read_only(small, tree, small_file_system):
    small.ok("build", tree, "-t", "app:v1")
    before = named(small)
    small.ok("run", "app:v1", "-d", "--name", "one", "--", *SLEEP)
    mount("none", small_file_system, "ext4", MS_REMOUNT | MS_RDONLY)
    (tree / "new").write_text("new")
    for reference in ("app:v1", "app:v2"):
        refused(small("build", tree, "-t", reference, "--json"), USER, "the store is read-only")
    taken = small("snapshot", "one", "-t", "snap:v1", "--leave-running", "--json")
    refused(taken, USER, "the store is read-only")
    assert named(small) == before
    assert small.container("one")["state"] == "running"
    small.ok("stop", "one")


@pytest.mark.kernel
def test_a_store_that_is_full(small, tree, small_file_system):
    small.ok("build", tree, "-t", "app:v1")
    before = named(small)
    (tree / "large").write_bytes(os.urandom(80 << 20))
    for reference in ("app:v1", "app:v2"):
        refused(small("build", tree, "-t", reference, "--json"), USER, "no space left in the store")
    assert named(small) == before
    assert os.listdir(small_file_system / "store" / "staging") == []
    (tree / "large").unlink()
    small.ok("build", tree, "-t", "app:v1")
    small.ok("verify", "app:v1")


@pytest.fixture
def proxy(seaweedfs):
    with StoreProxy(seaweedfs.endpoint) as proxy:
        yield proxy


@pytest.fixture
def far(scratch, s3_environment, proxy):
    """A root on a bucket behind the proxy."""
    url = f"s3://{s3_environment.fresh_bucket()}/p?endpoint={proxy.endpoint}"
    yield from rooted(scratch / "f", url)


def is_last_write(request):
    """The one that moves the reference: everything else is stored by then."""
    return request.method == "PUT" and "/references/" in request.path


@pytest.mark.s3
def test_a_store_that_denies_or_goes_away(far, tree, proxy):
    far.ok("build", tree, "-t", "app:v1")
    before = named(far)
    (tree / "new").write_text("new")
    for fits in (lambda request: True, is_last_write):
        denied = proxy.inject(spoiled.answers(403, DENIED), fits=fits)
        refused(far("build", tree, "-t", "app:v1", "--json"), USER, "access denied")
        assert denied.hits > 0
        proxy.heal()
        assert named(far) == before
    proxy.leave()
    refused(far("build", tree, "-t", "app:v1", "--json"), UNAVAILABLE, "127.0.0.1")
    proxy.come_back()
    assert named(far) == before
    far.ok("build", tree, "-t", "app:v1")
    assert named(far) != before
