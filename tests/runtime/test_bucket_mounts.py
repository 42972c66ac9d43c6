"""Weights mounted out of a real bucket: bytes, laziness, pinning, deaths. Readers are processes."""

import hashlib
import os
import random
import subprocess
from pathlib import Path

import boto3
import pytest

from hotstart.core.run import run
from lazyfs.object_table import digests_path
from lazyfs.served_devices import FANOTIFY, FUSE
from runtime.weights import READ_AHEAD_KIB, load_weights
from tests.lazyfs.node import read_status, running_node, tree_digest, wait_until
from tests.requires import requires

MIB = 1 << 20
pytestmark = [pytest.mark.kernel, pytest.mark.s3, requires("erofs", "fanotify_pre_content")]


class Bucket:
    """A bucket with weights below ``models/``, and the same files in a directory."""

    def __init__(self, name, directory: Path):
        self.url = f"s3://{name}/models"
        self.name = name
        self.directory = directory
        self.client = boto3.client("s3")

    def put(self, key, content):
        path = self.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.client.put_object(Bucket=self.name, Key=f"models/{key}", Body=content)


@pytest.fixture
def bucket(s3_environment, scratch):
    made = Bucket(s3_environment.fresh_bucket(), scratch / "source")
    source = random.Random(3)
    made.put("large.safetensors", source.randbytes(6 * MIB + 1234))
    made.put("config.json", b"{}")
    made.put("dir/empty", b"")
    made.put("dir/with space, % and \u00e9#?+", source.randbytes(5000))
    yield made
    made.client.close()


def mounted(node, bucket):
    spec = load_weights(bucket.url, node.cache).spec
    return node.mounts.mount(spec, read_ahead_kib=READ_AHEAD_KIB)


def read_range(path, offset, length):
    """Read some bytes of a mounted file in another process; None if they can't be had."""
    argv = ["dd", f"if={path}", "bs=4096", f"skip={offset // 4096}", f"count={length // 4096}"]
    done = subprocess.run(argv, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def fetched(node):
    return sum(stat.bytes_fetched for stat in node.mounts.stats())


@pytest.mark.parametrize("filler", [FANOTIFY, FUSE])
def test_a_bucket_is_mounted_as_it_is(scratch, bucket, filler):
    with running_node(scratch / "r", filler=filler) as node, mounted(node, bucket) as mount:
        assert tree_digest(mount.path) == tree_digest(bucket.directory)
        found = run(["stat", "-c", "%a %u %g", str(mount.path / "config.json")]).text.split()
        assert found == ["444", "0", "0"]
        head = bucket.client.head_object(Bucket=bucket.name, Key="models/config.json")
        said = run(["stat", "-c", "%Y", str(mount.path / "config.json")]).text
        assert int(said) == int(head["LastModified"].timestamp())


def test_what_is_not_read_is_not_fetched(scratch, bucket):
    with running_node(scratch / "r") as node, mounted(node, bucket) as mount:
        run(["find", str(mount.path)])
        assert fetched(node) == 0
        whole = (bucket.directory / "large.safetensors").read_bytes()
        got = read_range(mount.path / "large.safetensors", 3 * MIB, 4096)
        assert got == whole[3 * MIB : 3 * MIB + 4096]
        assert 256 << 10 <= fetched(node) <= 3 * MIB


def test_the_same_listing_finds_what_is_local(scratch, bucket):
    with running_node(scratch / "r") as node:
        with mounted(node, bucket) as mount:
            tree_digest(mount.path)
        with mounted(node, bucket) as mount:
            assert tree_digest(mount.path) == tree_digest(bucket.directory)
            assert fetched(node) == 0


def test_a_changed_object_is_an_error_and_never_a_mix(scratch, bucket):
    with running_node(scratch / "r") as node, mounted(node, bucket) as mount:
        path = mount.path / "large.safetensors"
        before = (bucket.directory / "large.safetensors").read_bytes()
        middle = 3 * MIB
        assert read_range(path, middle, 4096) == before[middle : middle + 4096]
        bucket.put("large.safetensors", before[::-1])
        assert read_status(path) != 0
        assert read_range(path, 0, 4096) is None
        assert read_range(path, middle, 4096) == before[middle : middle + 4096]
        log = "".join(p.read_text(errors="replace") for p in node.run_dir.glob("*.log"))
        assert "'large.safetensors' has changed since it was mounted" in log
        # Another listing is another mount, with what is there now.
        with mounted(node, bucket) as now:
            assert now.path != mount.path
            assert tree_digest(now.path) == tree_digest(bucket.directory)


def test_an_object_that_is_gone_is_an_error_and_others_are_read(scratch, bucket):
    with running_node(scratch / "r") as node, mounted(node, bucket) as mount:
        bucket.client.delete_object(Bucket=bucket.name, Key="models/large.safetensors")
        assert read_status(mount.path / "large.safetensors") != 0
        assert read_status(mount.path / "config.json") == 0


@pytest.mark.parametrize("point", ["written", "ready-set"])
def test_no_byte_is_wrong_when_the_worker_dies(scratch, bucket, point):
    options = [f"--crash-at={point}:9"]
    with running_node(scratch / "r", *options) as node, mounted(node, bucket) as mount:
        assert tree_digest(mount.path) == tree_digest(bucket.directory)
        assert node.guard.status()["workers"]["fill"]["starts"] > 1


def test_random_kills_while_reading_lose_nothing(scratch, bucket):
    with running_node(scratch / "r") as node, mounted(node, bucket) as mount:
        argv = ["sha256sum", str(mount.path / "large.safetensors")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as reader:
            for _ in range(2):
                before = fetched(node)
                wait_until(lambda seen=before: reader.poll() is not None or fetched(node) != seen)
                node.kill_worker()
                node.worker.ping()
            out, _ = reader.communicate(timeout=60)
        whole = (bucket.directory / "large.safetensors").read_bytes()
        assert out.split()[0].decode() == hashlib.sha256(whole).hexdigest()


def test_the_next_agent_adopts_the_mount_and_its_worker_reads_on(scratch, bucket):
    with running_node(scratch / "r") as node:
        mount = mounted(node, bucket)
        read_range(mount.path / "large.safetensors", 0, 4096)
        node.abandon()
        node.start()
        assert node.mounts.adopt() == 1
        node.kill_worker()
        assert tree_digest(mount.path) == tree_digest(bucket.directory)


def test_what_is_fetched_again_must_be_the_bytes_that_came_first(scratch, bucket):
    with running_node(scratch / "r") as node:
        with mounted(node, bucket) as mount:
            (device,) = mount.spec.devices
            assert read_status(mount.path / "config.json") == 0
        digests = digests_path(node.cache.objects_path(device.device_id))
        with digests.open("r+b") as file:
            kept = os.pread(file.fileno(), 32, 4096)
            assert any(kept)
            os.pwrite(file.fileno(), bytes([kept[0] ^ 1]) + kept[1:], 4096)
        node.cache.ready_path(device.device_id).unlink()
        with mounted(node, bucket) as mount:
            assert read_status(mount.path / "config.json") != 0
