"""Weights out of any bucket, through the command line, read by the loaders that people use."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.e2e.conftest import Hotstart
from tests.requires import requires

pytestmark = [pytest.mark.e2e, pytest.mark.s3, requires("erofs", "fanotify_pre_content")]

MIB = 1 << 20
LOAD_TORCH = """
import hashlib, sys
from safetensors.torch import load_file
for name, tensor in sorted(load_file(sys.argv[1]).items()):
    print(name, tuple(tensor.shape), hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""
LOAD_NUMPY = LOAD_TORCH.replace("safetensors.torch", "safetensors.numpy").replace(
    "tensor.numpy()", "tensor"
)
ONE_TENSOR = """
import hashlib, sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework="numpy") as file:
    tensor = file.get_tensor(sys.argv[2])
print(hashlib.sha256(tensor.tobytes()).hexdigest())
"""
MEMORY_MAP = """
import hashlib, sys
import numpy
array = numpy.memmap(sys.argv[1], dtype="float32", mode="r")
rows = slice(int(sys.argv[2]), int(sys.argv[3]))
print(hashlib.sha256(array[rows].tobytes()).hexdigest())
"""


def load(script, *words):
    """Run a loader in a process of its own: this one must not read the mount."""
    argv = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture
def model(s3_environment, scratch):
    """A bucket with a model, and the directory that it was copied from."""
    name = s3_environment.fresh_bucket()
    local = scratch / "model"
    local.mkdir()
    source = np.random.default_rng(5)
    tensors = {f"layer{n}": source.random((1024, 1024), dtype=np.float32) for n in range(20)}
    save_file(tensors, local / "model.safetensors")
    tensors["layer0"].tofile(local / "raw.f32")
    client = boto3.client("s3")
    for path in local.iterdir():
        client.upload_file(str(path), name, f"models/small/{path.name}")
    yield f"s3://{name}/models/small", local, client, name
    client.close()


@pytest.fixture
def node(s3_environment, scratch):
    command = Hotstart(scratch / "r", scratch / "store")
    yield command
    command.ok("agent", "stop", "--all")


def local_bytes(node, target):
    views = node.ok("mounts", "--json").document["mounts"]
    (view,) = [view for view in views if view["path"] == str(target)]
    return view["bytes_local"]


def test_real_loaders_read_a_bucket_mount(node, model, scratch):
    url, local, _client, _name = model
    target = scratch / "weights"
    target.mkdir()
    assert node.ok("mount", url, target, "--json").document["reference"] == url
    assert local_bytes(node, target) == 0
    # One tensor of twenty, and a part of an array: what is not asked for stays in the bucket.
    for script, words in (
        (ONE_TENSOR, ("model.safetensors", "layer5")),
        (MEMORY_MAP, ("raw.f32", 300_000, 301_000)),
    ):
        mounted, original = (
            load(script, place / words[0], *words[1:]) for place in (target, local)
        )
        assert mounted == original
    assert 4 * MIB <= local_bytes(node, target) <= 40 * MIB
    whole = load(LOAD_NUMPY, local / "model.safetensors")
    assert load(LOAD_NUMPY, target / "model.safetensors") == whole
    assert load(MEMORY_MAP, target / "raw.f32", 0, MIB) == load(
        MEMORY_MAP, local / "raw.f32", 0, MIB
    )
    node.ok("agent", "stop")
    assert load(LOAD_NUMPY, target / "model.safetensors") == whole
    assert [v["reference"] for v in node.ok("mounts", "--json").document["mounts"]] == [url]
    node.ok("umount", target)
    assert not list(target.iterdir())


@pytest.mark.soak  # needs torch, which make setup does not bring
def test_torch_loads_a_bucket_mount(node, model, scratch):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: install its CPU build into .venv")
    url, local, _client, _name = model
    target = scratch / "weights"
    target.mkdir()
    node.ok("mount", url, target)
    mounted, original = (load(LOAD_TORCH, place / "model.safetensors") for place in (target, local))
    assert mounted == original


def test_what_cannot_be_mounted_is_said(node, model, scratch):
    url, _local, client, name = model
    target = scratch / "weights"
    target.mkdir()
    client.put_object(Bucket=name, Key="models/small/two\nlines", Body=b"x")
    mounted = node.ok("mount", url, target)
    assert "is left out: its key has characters that are no text" in mounted.err
    for bad, why in (
        (f"s3://{name}/nothing/here", "there are no objects below this prefix"),
        ("s3://no-such-bucket-at-all/x", "does not exist"),
        ("s3://Not_A_Bucket/x", "cannot name a bucket"),
    ):
        (scratch / "other").mkdir(exist_ok=True)
        failed = node("mount", bad, scratch / "other", "--json")
        assert failed.status in (100, 101), failed
        assert why in failed.error["message"]


@requires("overlay", "veth", "nft_nat", "runc", "conmon")
def test_a_container_is_given_weights(library, model, scratch):
    url, local, _client, _name = model
    node = Hotstart(scratch / "r", library)
    try:
        node.ok(
            "run", "shell:v1", "-d", "--name", "c", "--weights", f"{url}:/models/m",
            "--", "/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done",
        )  # fmt: skip
        counted = node.ok("exec", "c", "--", "/bin/sh", "-c", "wc -c < /models/m/model.safetensors")
        assert int(counted.out) == Path(local / "model.safetensors").stat().st_size
        written = node("exec", "c", "--", "/bin/sh", "-c", "echo x > /models/m/new")
        assert written.status != 0
        # The next agent takes the mount up with the container, and lets go of it with it.
        node.ok("agent", "stop")
        views = node.ok("mounts", "--json").document["mounts"]
        assert url in [view["reference"] for view in views]
        node.ok("exec", "c", "--", "/bin/sh", "-c", "cat /models/m/model.safetensors > /dev/null")
        node.ok("stop", "c")
        assert node.ok("mounts", "--json").document["mounts"] == []
    finally:
        node.ok("agent", "stop", "--all")


def test_weights_that_are_none_are_a_usage_error(node):
    for text in ("/host:/models", "s3://bucket/prefix", "s3://bucket/prefix:models"):
        failed = node("run", "shell:v1", "--weights", text)
        assert failed.status == 2
        assert "s3://BUCKET/PREFIX:/DIRECTORY" in failed.err
