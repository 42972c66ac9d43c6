"""One real S3 server for the whole session, and a fresh bucket for whoever asks."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from bench.s3_server import REGION, S3Server


@dataclass
class SeaweedFS:
    """The running server: where it answers, its keys, and buckets."""

    server: S3Server
    region: str = REGION
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    @property
    def access_key(self) -> str:
        return self.server.access_key

    @property
    def secret_key(self) -> str:
        return self.server.secret_key

    @property
    def environment(self) -> dict[str, str]:
        """The variables through which programs find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def fresh_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{next(self.numbers)}"
        self.server.make_bucket(name)
        return name


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory, lasting_processes):
    """The server of this session; tests that use it are marked ``s3``."""
    with S3Server(tmp_path_factory.mktemp("seaweedfs")) as server:
        lasting_processes.add(server.pid)
        yield SeaweedFS(server)


@pytest.fixture
def s3_environment(seaweedfs, monkeypatch):
    """The server's address and keys in the environment of this test."""
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
    return seaweedfs
