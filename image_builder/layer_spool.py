"""Layers made readable at any position: verified, and unpacked if they are compressed.

An uncompressed layer is read where it lies. A gzip or zstd layer is unpacked once into an unlinked
file in the staging directory, since a compressed stream can't be read at a position; the file
vanishes with its descriptor, whatever happens. Both are hashed on the way: the stored bytes against
the digest of the manifest, the tar against the diff id of the config.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import zstandard

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.errors import UserError
from image_builder.archive_file import ArchiveBytes
from image_builder.errors import LimitExceeded, SourceDamaged, SourceInvalid
from image_builder.limits import Limits

_STEP = 1 << 20
_MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


class StagingFull(UserError):
    """There is too little room to unpack a layer."""

    def __init__(self, directory: str, layer: str) -> None:
        super().__init__(
            f"{directory}: no space left to unpack {layer}",
            "free space there, or set TMPDIR to a larger file system",
        )
        self.directory = directory


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as it lies in an image. Digests are None where the image names none."""

    stored: ArchiveBytes
    digest: Digest | None
    diff_id: Digest | None


@dataclass(frozen=True, slots=True)
class Spool:
    """Where layers are unpacked, within which limits, and who closes them."""

    directory: Path | None
    limits: Limits
    stack: ExitStack

    def open(self, layer: LayerBlob) -> ArchiveBytes:
        """Return the tar of a layer, verified and readable at any position.

        Raises DigestMismatch, SourceInvalid, LimitExceeded, StagingFull.
        """
        stored = layer.stored
        kind = compression_of(stored)
        if kind is None:
            _check_size(stored.size, stored.name, self.limits)
            expected = [digest for digest in (layer.digest, layer.diff_id) if digest is not None]
            if expected:
                actual = _digest_of(stored)
                for digest in expected:
                    _compare(stored.name, digest, actual)
            return stored
        hashed = _Hashed(stored)
        plain = self._unpack(_unpacked(hashed, kind), stored.name, layer.diff_id)
        if layer.digest is not None:
            _compare(stored.name, layer.digest, hashed.finish())
        return plain

    def _unpack(self, parts: Iterator[bytes], name: str, diff_id: Digest | None) -> ArchiveBytes:
        where = str(self.directory or tempfile.gettempdir())
        # The descriptor is the ExitStack's; the file has no name from the start (O_TMPFILE).
        spool = self.stack.enter_context(
            tempfile.TemporaryFile(dir=where, buffering=0)  # noqa: SIM115 - the stack closes it
        )
        digest, size = hashlib.sha256(), 0
        try:
            for part in parts:
                size += len(part)
                _check_size(size, name, self.limits)
                digest.update(part)
                _write_all(spool.fileno(), part)
                if size % (64 * _STEP) < len(part):
                    self._check_space(spool.fileno(), where, name)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StagingFull(where, name) from err
            raise
        if diff_id is not None:
            _compare(f"{name}, unpacked", diff_id, Digest(digest.hexdigest()))
        return ArchiveBytes(spool.fileno(), 0, size, name)

    def _check_space(self, fd: int, where: str, name: str) -> None:
        state = os.fstatvfs(fd)
        if state.f_bavail * state.f_frsize < self.limits.spool_reserve:
            raise StagingFull(where, name)


def compression_of(stored: ArchiveBytes) -> str | None:
    """Return how bytes are compressed, by their first bytes; None if they aren't."""
    start = stored.read(0, min(stored.size, 6))
    return next((kind for magic, kind in _MAGICS.items() if start.startswith(magic)), None)


class _Hashed:
    """Reads a stored layer in order and hashes all of it."""

    def __init__(self, stored: ArchiveBytes) -> None:
        self.stored = stored
        self._position = 0
        self._digest = hashlib.sha256()

    def next(self) -> bytes:
        """Return the next part, empty at the end."""
        length = min(_STEP, self.stored.size - self._position)
        part = self.stored.read(self._position, length) if length else b""
        self._digest.update(part)
        self._position += length
        return part

    def finish(self) -> Digest:
        """Return the digest of the whole, reading what is left."""
        while self.next():
            pass
        return Digest(self._digest.hexdigest())


def _unpacked(hashed: _Hashed, kind: str) -> Iterator[bytes]:
    if kind == "gzip":
        return _gunzip(hashed)
    if kind == "zstd":
        return _unzstd(hashed)
    raise SourceInvalid(
        hashed.stored.name,
        f"compressed with {kind}, which image layers don't use",
        "unpack it first; gzip, zstd and plain tar are understood",
    )


def _gunzip(hashed: _Hashed) -> Iterator[bytes]:
    name = hashed.stored.name
    stream = zlib.decompressobj(wbits=31)
    waiting = hashed.next()
    while True:
        try:
            part = stream.decompress(waiting, 4 * _STEP)
        except zlib.error as err:
            raise SourceDamaged(name, f"damaged gzip data: {err}") from err
        if part:
            yield part
        if stream.eof:
            waiting = stream.unused_data or hashed.next()
            # A gzip file may have several members, and zeros to a full block behind the last.
            if not waiting.strip(b"\0"):
                return
            stream = zlib.decompressobj(wbits=31)
            continue
        waiting = stream.unconsumed_tail or hashed.next()
        if not waiting and not part:
            raise SourceDamaged(name, "truncated: the gzip data has no end")


def _unzstd(hashed: _Hashed) -> Iterator[bytes]:
    # The library takes the end of its input for the end of the data; that an unfinished frame
    # was cut off is found by the diff id, or by the tar that has no end.
    name = hashed.stored.name
    source = _Reader(hashed)
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            cast("IO[bytes]", source), read_across_frames=True
        ) as stream:
            while part := stream.read(4 * _STEP):
                yield part
    except zstandard.ZstdError as err:
        raise SourceDamaged(name, f"damaged zstd data: {err}") from err


class _Reader:
    """What zstandard wants to read from."""

    def __init__(self, hashed: _Hashed) -> None:
        self._hashed = hashed
        self._left = b""

    def read(self, size: int) -> bytes:
        self._left = self._left or self._hashed.next()
        part, self._left = self._left[:size], self._left[size:]
        return part


def _write_all(fd: int, part: bytes) -> None:
    view = memoryview(part)
    while view:
        view = view[os.write(fd, view) :]


def _digest_of(stored: ArchiveBytes) -> Digest:
    return _Hashed(stored).finish()


def _compare(source: str, expected: Digest, actual: Digest) -> None:
    if expected != actual:
        raise DigestMismatch(source, str(expected), str(actual))


def _check_size(size: int, name: str, limits: Limits) -> None:
    if size > limits.layer_size:
        raise LimitExceeded(name, "the unpacked size of a layer", limits.layer_size)
