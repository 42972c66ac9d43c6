"""What a reader of a mounted image sees of each fault of the store: a real SeaweedFS, spoiled by a
proxy of ours. Whatever comes, no wrong byte is read; after recovery everything reads right.
"""

import os
import signal
import subprocess

import pytest

from hotstart.core.run import run
from hotstart.store.stack import open_store
from image_builder.build import build
from lazyfs.spec import MountSpec
from tests.faults import store_proxy as spoiled
from tests.faults.rows import fault_row
from tests.faults.store_proxy import StoreProxy
from tests.lazyfs.node import make_tree, read_status, running_node, tree_digest, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.s3]


class Image:
    """An image in SeaweedFS, its bootstrap aside: so faults meet data only."""

    def __init__(self, server, directory):
        self.tree = make_tree(directory / "tree", megabytes=3)
        self.digest = tree_digest(self.tree)
        self.bucket = f"s3://{server.fresh_bucket()}/p"
        self.store = open_store(f"{self.bucket}?endpoint={server.endpoint}")
        self.manifest = build(str(self.tree), self.store, reference="image:1").manifest
        self.packs = {pack.digest.hex for pack in self.manifest.devices[0].packs}

    def spec(self, proxy):
        url = open_store(f"{self.bucket}?endpoint={proxy.endpoint}").url
        return MountSpec.of(self.manifest, url)

    def is_pack(self, request):
        return request.method == "GET" and request.path.rpartition("/")[2] in self.packs


@pytest.fixture(scope="module", autouse=True)
def environment(seaweedfs):
    """Keys for this process and the node's, for the whole module."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in seaweedfs.environment.items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def image(environment, seaweedfs, tmp_path_factory):
    return Image(seaweedfs, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def the_proxy(seaweedfs):
    with StoreProxy(seaweedfs.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(the_proxy):
    yield the_proxy
    the_proxy.heal()


@pytest.fixture(scope="module")
def node(environment, image, tmp_path_factory):
    with running_node(tmp_path_factory.mktemp("node"), "--patience-s", "20") as node:
        node.cache.bootstrap(image.manifest.bootstrap, image.store.blobs)
        yield node


@pytest.fixture
def mounted(image, proxy, node):
    """Mount the image through the proxy, nothing of its data local; (node, mount)."""
    node.log_from = len((node.run_dir / "keeper.log").read_text())
    with node.mounts.mount(image.spec(proxy), read_ahead_kib=64) as mount:
        yield node, mount
    for path in node.cache.devices.iterdir():
        path.unlink()


@pytest.fixture
def mounted_apart(image, proxy, tmp_path):
    """The same on a node of the test's own: late fetches still put chunks into quarantine."""
    with running_node(tmp_path / "node", "--patience-s", "20") as node:
        node.log_from = 0
        node.cache.bootstrap(image.manifest.bootstrap, image.store.blobs)
        with node.mounts.mount(image.spec(proxy), read_ahead_kib=64) as mount:
            yield node, mount


def stats(node, image):
    return node.worker.stats()[image.manifest.devices[0].device_id]


def log_of(node):
    """Return what this test's worker has said."""
    return (node.run_dir / "keeper.log").read_text()[node.log_from :]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            spoiled.delayed(0.2),
            marks=fault_row("latency spikes", "waits, then the right bytes"),
            id="slow",
        ),
        pytest.param(
            spoiled.resets,
            marks=fault_row(
                "connection reset in the middle of a body", "waits, then the right bytes"
            ),
            id="reset",
        ),
        pytest.param(
            spoiled.ends_early,
            marks=fault_row("body ends before its declared length", "waits, then the right bytes"),
            id="ends-early",
        ),
        pytest.param(
            spoiled.is_short,
            marks=fault_row("body shorter than the range asked for", "waits, then the right bytes"),
            id="short",
        ),
        pytest.param(
            spoiled.is_long,
            marks=fault_row("body longer than the range asked for", "waits, then the right bytes"),
            id="long",
        ),
        pytest.param(
            spoiled.shifts,
            marks=fault_row("another range than the one asked for", "waits, then the right bytes"),
            id="range",
        ),
        pytest.param(
            spoiled.flips,
            marks=fault_row(
                "bytes flipped on their way",
                "the right bytes: a chunk that came wrong is fetched once more",
            ),
            id="flip",
        ),
        pytest.param(
            spoiled.answers(500),
            marks=fault_row("500 InternalError", "waits, then the right bytes"),
            id="500",
        ),
        pytest.param(
            spoiled.answers(503),
            marks=fault_row("503 ServiceUnavailable", "waits, then the right bytes"),
            id="503",
        ),
        pytest.param(
            spoiled.slow_down,
            marks=fault_row("503 SlowDown", "waits, then the right bytes"),
            id="slow-down",
        ),
    ],
)
def test_a_fault_that_passes_costs_time_and_nothing_else(image, proxy, mounted, spoil):
    node, mount = mounted
    # One at a time: of a chunk that came wrong the next answer is right.
    injected = [proxy.inject(spoil, times=1, fits=image.is_pack)]
    assert read_status(mount.path / "large") == 0
    injected.append(proxy.inject(spoil, times=1, fits=image.is_pack))
    assert tree_digest(mount.path) == image.digest
    assert injected[0].hits == 1
    assert stats(node, image)["errors"] == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            spoiled.flips,
            "chunk_quarantined",
            marks=fault_row(
                "a chunk is wrong in the store itself",
                "EIO, one line names the chunk; "
                "at once and without a request while it is in quarantine",
            ),
            id="wrong",
        ),
        pytest.param(
            spoiled.answers(403),
            "access denied",
            marks=fault_row(
                "403 that newer credentials do not end",
                "EIO, one line says that access is denied; a later read tries again",
            ),
            id="denied",
        ),
        pytest.param(
            spoiled.answers(404),
            "put the blob back, or build it again; a later read tries again",
            marks=fault_row(
                "404 of a pack",
                "EIO, one line names the pack, the device and what to do; a later read tries again",
            ),
            id="404",
        ),
    ],
)
def test_a_fault_that_stays_is_eio_never_data_and_ends_with_its_cause(
    image, proxy, mounted_apart, spoil, words
):
    node, mount = mounted_apart
    proxy.inject(spoil, fits=image.is_pack)
    assert read_status(mount.path / "large") != 0
    assert stats(node, image)["errors"] > 0
    wait_until(lambda: words in log_of(node))
    proxy.heal()
    wait_until(lambda: _reads_right(node, mount, image))


def _reads_right(node, mount, image):
    """What was fetched before the recovery may get into quarantine after it was lifted."""
    node.worker.lift_quarantine()
    return tree_digest(mount.path) == image.digest


def test_a_chunk_in_quarantine_is_not_asked_for(image, proxy, mounted_apart):
    node, mount = mounted_apart
    injected = proxy.inject(spoiled.flips, fits=image.is_pack)
    argv = ["dd", f"if={mount.path / 'large'}", "of=/dev/null", "bs=4096", "count=1"]
    assert run(argv, check=False).status != 0

    def nothing_is_asked_for():
        """What lies around the chunk is asked for too, until all of it is in quarantine."""
        hits = injected.hits
        assert all(run(argv, check=False).status != 0 for _ in range(3))
        return injected.hits == hits

    wait_until(nothing_is_asked_for)
    wait_until(
        lambda: 1 <= stats(node, image)["quarantined"] == log_of(node).count(" chunk_quarantined ")
    )
    assert "fill_failed" not in log_of(node)
    assert "fault_failed" not in log_of(node)


def reading(mount):
    """Start a reader of all there is."""
    return subprocess.Popen(["cat", str(mount.path / "large")], stdout=subprocess.DEVNULL)


@fault_row(
    "the store is away (connections refused) for less than the patience",
    "waits, then the right bytes",
)
def test_readers_wait_for_a_store_that_is_away(image, proxy, mounted):
    node, mount = mounted
    proxy.leave()
    with reading(mount) as reader:
        wait_until(lambda: stats(node, image)["retries"] >= 3)
        assert reader.poll() is None
        proxy.come_back()
    assert reader.returncode == 0
    assert tree_digest(mount.path) == image.digest
    assert stats(node, image)["errors"] == 0


@fault_row(
    "the store takes requests and never answers, then comes back", "waits, then the right bytes"
)
def test_readers_wait_for_a_store_that_is_silent(image, proxy, mounted):
    _, mount = mounted
    silent = proxy.inject(spoiled.never_answers, times=1, fits=image.is_pack)
    with reading(mount) as reader:
        proxy.await_hits(silent, 1)
        assert reader.poll() is None
        proxy.heal()
    assert reader.returncode == 0
    assert tree_digest(mount.path) == image.digest


@fault_row("a reader is killed while it waits for the store", "it ends at once; others wait on")
def test_a_reader_that_waits_can_be_killed(image, proxy, mounted):
    _, mount = mounted
    silent = proxy.inject(spoiled.never_answers, fits=image.is_pack)
    with reading(mount) as killed, reading(mount) as other:
        proxy.await_hits(silent, 1)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(20) == -signal.SIGKILL
        proxy.heal()
    assert other.returncode == 0
    assert tree_digest(mount.path) == image.digest


@fault_row(
    "the store is away for longer than the patience",
    "EIO when the patience is over; the right bytes once the store is back",
)
def test_a_store_that_stays_away_is_eio_and_reads_right_when_it_is_back(image, proxy, tmp_path):
    with running_node(tmp_path / "node", "--patience-s", "1") as node:
        node.cache.bootstrap(image.manifest.bootstrap, image.store.blobs)
        with node.mounts.mount(image.spec(proxy), read_ahead_kib=64) as mount:
            proxy.leave()
            assert read_status(mount.path / "large") != 0
            assert stats(node, image)["retries"] > 0
            proxy.come_back()
            assert tree_digest(mount.path) == image.digest


def write_credentials(path, access_key, secret_key):
    staged = path.with_suffix(".new")
    staged.write_text(
        f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
    )
    staged.replace(path)


@fault_row(
    "403 ExpiredToken, and newer credentials are there",
    "the right bytes: they are read again, once",
)
def test_expired_credentials_are_read_again(image, proxy, tmp_path, monkeypatch, seaweedfs):
    path = tmp_path / "credentials"
    write_credentials(path, "OLD", "old")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.fspath(path))

    def expire(request, true):
        write_credentials(path, seaweedfs.access_key, seaweedfs.secret_key)
        return spoiled.answers(403)(request, true)

    old = proxy.inject(expire, fits=lambda r: "Credential=OLD/" in str(r.headers))
    with running_node(tmp_path / "node") as node:
        node.cache.bootstrap(image.manifest.bootstrap, image.store.blobs)
        with node.mounts.mount(image.spec(proxy), read_ahead_kib=64) as mount:
            assert tree_digest(mount.path) == image.digest
            assert stats(node, image)["errors"] == stats(node, image)["retries"] == 0
    assert old.hits >= 1


@pytest.mark.soak
def test_readers_wait_for_a_store_that_is_away_for_a_minute(image, proxy, tmp_path):
    """The patience of a node that nobody has set up otherwise."""
    with running_node(tmp_path / "node") as node:
        node.cache.bootstrap(image.manifest.bootstrap, image.store.blobs)
        with node.mounts.mount(image.spec(proxy), read_ahead_kib=64) as mount:
            proxy.leave()
            with reading(mount) as reader:
                with pytest.raises(subprocess.TimeoutExpired):
                    reader.wait(60)
                proxy.come_back()
            assert reader.returncode == 0
            assert tree_digest(mount.path) == image.digest
