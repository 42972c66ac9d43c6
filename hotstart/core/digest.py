"""Digests: the only identity of content.

A blob in a store is named by the SHA-256 of its bytes, so that OCI tools can copy it. A chunk is
verified by BLAKE3 (faster, and never seen by OCI tools); its 32 raw bytes are a ``ChunkDigest``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NewType

from hotstart.core.errors import IntegrityError, UserError

ChunkDigest = NewType("ChunkDigest", bytes)
"""BLAKE3 of a chunk's uncompressed bytes, 32 bytes."""

_HEX = re.compile(r"[0-9a-f]{64}")


class DigestMismatch(IntegrityError):
    """Bytes read from ``source`` do not have the digest that names them."""

    hint = "what is there is damaged: remove it, and save, copy or build it again"

    def __init__(self, source: str, expected: str, actual: str) -> None:
        super().__init__(f"{source}: digest is {actual}, expected {expected}")
        self.source = source
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """``sha256:<64 hex digits>`` of exact bytes."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise UserError(f"not a SHA-256 digest: {self.hex[:80]!r}", "write sha256:<64 hex>")

    @classmethod
    def of(cls, content: bytes | bytearray | memoryview) -> Digest:
        """Return the digest of ``content``."""
        return cls(hashlib.sha256(content).hexdigest())

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<hex>``. Raises UserError for anything else."""
        algorithm, _, digits = text.partition(":")
        if algorithm != "sha256":
            raise UserError(f"unknown digest algorithm in {text[:80]!r}", "write sha256:<64 hex>")
        return cls(digits)

    def check(self, content: bytes | bytearray | memoryview, source: str) -> None:
        """Raise DigestMismatch unless ``content`` has this digest."""
        actual = Digest.of(content)
        if actual != self:
            raise DigestMismatch(source, str(self), str(actual))

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
