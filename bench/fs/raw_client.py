"""Clients without a file system: what a program that knows the object store by heart can reach.

``RawClient`` does what the fill worker does with an image's packs: coalesced ranges, decoded,
verified by BLAKE3, written to a sparse file; one thread does all of one range. ``fetch_object``
and S5cmd move plain objects into a file, and check nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from bench.fs.options import MIB
from bench.s3_server import REGION, S3Server
from hotstart.core.run import run
from hotstart.core.span import Span
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.packs import decode_verified


def open_bucket(endpoint: str, bucket: str) -> S3Store:
    """Return obstore's client of one bucket of the benchmark's server."""
    return S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=S3Server.access_key,
        secret_access_key=S3Server.secret_key,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={
            "allow_http": urlsplit(endpoint).scheme == "http",
            "timeout": timedelta(minutes=5),
        },
    )


@dataclass(frozen=True, slots=True)
class Tuning:
    """Bytes of a range at most, and how many are in flight."""

    range_bytes: int
    in_flight: int

    def __str__(self) -> str:
        return f"{self.in_flight} x {self.range_bytes / MIB:g} MiB"


TUNINGS = (Tuning(4 * MIB, 4), Tuning(4 * MIB, 8), Tuning(4 * MIB, 16), Tuning(2 * MIB, 16))
"""What is tried before the rounds; the quickest is the raw client of a link."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """Where a file's bytes are: its place in the device, and the device's chunk table."""

    span: Span
    table: ChunkTable

    def ranges(self, limit: int) -> list[list[Chunk]]:
        """Return the file's chunks as runs that lie side by side in one pack."""
        runs: list[list[Chunk]] = []
        order = sorted(self.table.between(self.span), key=lambda c: (c.pack, c.pack_offset))
        for chunk in order:
            last = runs[-1] if runs else []
            if last and _follows(last, chunk, limit):
                last.append(chunk)
            else:
                runs.append([chunk])
        return runs


def _follows(run_: Sequence[Chunk], chunk: Chunk, limit: int) -> bool:
    end = run_[-1].pack_offset + run_[-1].stored_length
    same = run_[-1].pack_offset  # a repeated chunk: fetched once
    length = chunk.pack_offset + chunk.stored_length - run_[0].pack_offset
    return run_[-1].pack == chunk.pack and chunk.pack_offset in (end, same) and length <= limit


class RawClient:
    """Fetches files of an image out of its packs. Thread-safe."""

    def __init__(self, objects: S3Store, prefix: str, tuning: Tuning = TUNINGS[0]) -> None:
        self._objects = objects
        self._prefix = prefix
        self.tuning = tuning

    def fetch(self, file: ImageFile, target: Path) -> None:
        """Write the file's bytes, decoded and verified, to ``target``."""
        descriptor = os.open(target, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, file.span.length)
            with ThreadPoolExecutor(self.tuning.in_flight) as pool:
                ranges = file.ranges(self.tuning.range_bytes)
                for done in [pool.submit(self._fill, file, run_, descriptor) for run_ in ranges]:
                    done.result()
        finally:
            os.close(descriptor)

    def get(self, file: ImageFile, chunk: Chunk) -> bytes:
        """Return a chunk's stored bytes: one ranged GET and nothing else."""
        return bytes(self._range(file, chunk.pack, chunk.pack_offset, chunk.stored_length))

    def _fill(self, file: ImageFile, run_: Sequence[Chunk], descriptor: int) -> None:
        start = run_[0].pack_offset
        length = run_[-1].pack_offset + run_[-1].stored_length - start
        stored = self._range(file, run_[0].pack, start, length)
        for chunk in run_:
            begin = chunk.pack_offset - start
            content = memoryview(
                decode_verified(
                    stored[begin : begin + chunk.stored_length],
                    raw=chunk.raw,
                    length=chunk.length,
                    digest=chunk.digest,
                    source="raw client",
                )
            )
            cut = max(0, file.span.offset - chunk.device_offset)
            place = chunk.device_offset + cut - file.span.offset
            os.pwrite(descriptor, content[cut : cut + file.span.length - place], place)

    def _range(self, file: ImageFile, pack: int, start: int, length: int) -> memoryview:
        path = f"{self._prefix}/blobs/sha256/{file.table.packs[pack].hex}"
        return memoryview(obstore.get_range(self._objects, path, start=start, length=length))


def fetch_object(objects: S3Store, name: str, size: int, target: Path, tuning: Tuning) -> None:
    """Write a whole object to ``target`` by parallel ranges."""
    descriptor = os.open(target, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def copy(start: int) -> None:
        length = min(tuning.range_bytes, size - start)
        content = memoryview(obstore.get_range(objects, name, start=start, length=length))
        os.pwrite(descriptor, content, start)

    try:
        with ThreadPoolExecutor(tuning.in_flight) as pool:
            list(pool.map(copy, range(0, size, tuning.range_bytes)))
    finally:
        os.close(descriptor)


def s5cmd_object(program: Path, endpoint: str, source: str, target: Path) -> None:
    """Copy a whole object by s5cmd: parts of 4 MiB, 16 of them at once. Raises CommandFailed."""
    environment = {
        "AWS_ACCESS_KEY_ID": S3Server.access_key,
        "AWS_SECRET_ACCESS_KEY": S3Server.secret_key,
        "AWS_REGION": REGION,
        "HOME": "/nonexistent",
    }
    argv = [str(program), "--endpoint-url", endpoint, "--log", "error", "cp"]
    argv += ["--concurrency", "16", "--part-size", "4", f"s3://{source}", str(target)]
    run(argv, env=environment, timeout_s=600)
