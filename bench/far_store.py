"""The store that paths reach over the emulated link: a real S3 server of this machine.

``FarStore`` owns the server, its data and the link. ``fill`` goes past the link; ``access`` leads
through it, for the agents that are measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import bench
from bench.link_emulator import Link, LinkEmulator
from bench.s3_server import REGION, S3Server
from bench.store_access import StoreAccess
from hotstart.core.errors import Unavailable
from hotstart.core.progress import Progress, ProgressSink
from hotstart.core.run import PIPE, Process, spawn

BUCKET = "bench"
PREFIX = "store"
SOURCE = Path(bench.__file__).parents[1]


class CopyFailed(Unavailable):
    """The far store could not be filled; the message holds the copier's last words."""


class FarStore:
    """An S3 server with one bucket, and the emulated link in front of it."""

    def __init__(self, directory: Path, link: Link, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self._link = link
        self._environment = environment
        self._stack = ExitStack()
        self._server: S3Server | None = None
        self._emulator: LinkEmulator | None = None

    def __enter__(self) -> FarStore:
        try:
            self.directory.mkdir(parents=True)
            self._server = self._stack.enter_context(S3Server(self.directory))
            self._server.make_bucket(BUCKET)
            port = urlsplit(self._server.endpoint).port or 0
            self._emulator = self._stack.enter_context(
                LinkEmulator(port, self._link, self.directory)
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def link(self) -> LinkEmulator:
        """The link between the store and the agents that are measured."""
        if self._emulator is None:
            raise Unavailable("the far store is not running: enter its context first")
        return self._emulator

    @property
    def access(self) -> StoreAccess:
        """The store as seen through the link."""
        return self._access(self.endpoints["link"])

    @property
    def direct(self) -> StoreAccess:
        """The store past the link, as on the loopback interface."""
        return self._access(self._running().endpoint)

    @property
    def endpoints(self) -> dict[str, str]:
        """Where S3 answers: ``loopback`` directly, ``link`` through the emulated link."""
        return {
            "loopback": self._running().endpoint,
            "link": f"http://127.0.0.1:{self.link.port}",
        }

    def make_bucket(self, name: str) -> None:
        """Make another, empty bucket."""
        self._running().make_bucket(name)

    def fill(self, source: StoreAccess, progress: ProgressSink) -> int:
        """Copy a store into this one, past the link; return the bytes of all blobs."""
        direct = self.direct
        order = json.dumps({"source": source.url, "target": direct.url})
        copier = spawn(
            [sys.executable, "-m", "bench.store_copy"],
            stdin=PIPE,
            stdout=PIPE,
            env=direct.env,
            cwd=SOURCE,
            new_session=True,  # an interrupt of the terminal is ours to handle
        )
        with copier:
            try:
                return _follow(copier, order, progress)
            except BaseException:
                copier.kill()
                raise

    def _running(self) -> S3Server:
        if self._server is None:
            raise Unavailable("the far store is not running: enter its context first")
        return self._server

    def _access(self, endpoint: str) -> StoreAccess:
        credentials = {
            "AWS_ACCESS_KEY_ID": S3Server.access_key,
            "AWS_SECRET_ACCESS_KEY": S3Server.secret_key,
        }
        url = f"s3://{BUCKET}/{PREFIX}?endpoint={endpoint}&region={REGION}"
        return StoreAccess(url, {**self._environment, **credentials})


def _follow(copier: Process, order: str, progress: ProgressSink) -> int:
    """Give the copier its order and pass its progress on; return the bytes of all blobs."""
    if copier.stdin is None or copier.stdout is None:  # the caller has asked for pipes
        raise CopyFailed("store copier: started without pipes")
    copier.stdin.write(order.encode() + b"\n")
    copier.stdin.flush()
    total = 0
    for line in copier.stdout:
        event = json.loads(line)
        total = event["total"]
        finished = event["done"] == total
        progress.update(Progress("far store", event["done"], total, finished=finished))
    if copier.wait() != 0:
        raise CopyFailed(f"store copier: exit status {copier.returncode}; see above")
    return total
