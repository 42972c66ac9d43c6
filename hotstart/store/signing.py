"""Signatures of snapshot manifests: a snapshot is code that root will run.

Ed25519 (RFC 8032) over the canonical bytes of the manifest without its two signature annotations.
A node signs with its own key, ROOT/keys/node.ed25519 (PEM, PKCS #8, mode 0600); further keys that
it trusts are ROOT/keys/trusted/*.pub (PEM, SubjectPublicKeyInfo). Whose snapshots may run is the
caller's to decide: ``verify`` takes the trusted keys.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from hotstart.core.errors import IntegrityError, UserError
from hotstart.core.log import get_logger
from hotstart.store.manifest import Signature, SnapshotManifest

log = get_logger(__name__)


class SignatureMissing(IntegrityError):
    """A snapshot manifest is not signed."""

    def __init__(self) -> None:
        super().__init__(
            "the snapshot is not signed; sign it, or run it anyway with --trust-unsigned"
        )


class SignatureForeign(IntegrityError):
    """A snapshot manifest is signed by a key that this node does not trust."""

    def __init__(self, key: PublicKey, directory: Path | None = None) -> None:
        super().__init__(
            f"the snapshot is signed by the key {key.raw.hex()}, which is not trusted here; to "
            "trust whoever made it, copy keys/node.pub of the root that it was made in to "
            f"{directory or 'ROOT/keys/trusted'}/NAME.pub, or use --trust-unsigned"
        )
        self.key = key


class SignatureWrong(IntegrityError):
    """A snapshot manifest was changed after a trusted key had signed it."""

    def __init__(self, key: PublicKey) -> None:
        super().__init__(
            f"the snapshot's signature by the trusted key {key.raw.hex()} does not match its "
            "content: it was changed; do not run it"
        )
        self.key = key


class KeyFileInvalid(UserError):
    """A key file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The 32 bytes of an Ed25519 public key."""

    raw: bytes

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """Read a PEM file. Raises KeyFileInvalid, or OSError."""
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except (ValueError, UnsupportedAlgorithm) as err:
            raise KeyFileInvalid(f"{path}: not a public key in PEM form") from err
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileInvalid(f"{path}: not an Ed25519 key")
        return cls(key.public_bytes_raw())

    def to_pem(self) -> bytes:
        """Return the PEM form, to be put into another node's keys/trusted."""
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class NodeKey:
    """The private key of a node. Never printed; ``public`` is what others may know."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    @classmethod
    def load_or_create(cls, path: Path) -> NodeKey:
        """Return the key at ``path``, making one if there is none; of two makers one wins.

        Raises KeyFileInvalid for a file that is no key or that others may read, or OSError.
        """
        with suppress(FileNotFoundError):
            return cls._load(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
        return cls._load(path)

    @classmethod
    def _load(cls, path: Path) -> NodeKey:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
        if mode & 0o077:
            raise KeyFileInvalid(f"{path}: mode {mode:04o} lets others read it", "chmod 600 it")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise KeyFileInvalid(f"{path}: not a private key in PEM form") from err
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileInvalid(f"{path}: not an Ed25519 key")
        return cls(key)

    def sign(self, content: bytes) -> bytes:
        """Return the signature of ``content``, 64 bytes."""
        return self._private.sign(content)


def _create(path: Path) -> None:
    """Place a new key at ``path`` unless one is there; a reader sees all of it or nothing."""
    content = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces the key that another process has just made.
        with suppress(FileExistsError):
            path.hardlink_to(staged)
    finally:
        staged.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class TrustedKeys(tuple[PublicKey, ...]):
    """The keys whose snapshots may run; ``directory`` is where a person adds one."""

    directory: Path


def load_trusted(directory: Path, *own: PublicKey) -> TrustedKeys:
    """Return ``own`` keys and every key in ``directory``/*.pub; no directory means no more.

    A file that is no key is warned of and left out: it must not keep the snapshots of all others
    from running. Raises PermissionError.
    """
    keys = list(own)
    for path in sorted(directory.glob("*.pub")):
        try:
            keys.append(PublicKey.load(path))
        except PermissionError:
            raise
        except (KeyFileInvalid, OSError) as err:
            log.warning("trusted_key_left_out", path=path, reason=err)
    trusted = TrustedKeys(keys)
    trusted.directory = directory
    return trusted


def sign(manifest: SnapshotManifest, key: NodeKey) -> SnapshotManifest:
    """Return the manifest with ``key``'s signature in place of any it had."""
    signature = Signature(key.public.raw, key.sign(manifest.signed_bytes()))
    return replace(manifest, signature=signature)


def verify(manifest: SnapshotManifest, trusted: Sequence[PublicKey]) -> PublicKey:
    """Return the trusted key that signed the manifest.

    Raises SignatureMissing, SignatureForeign or SignatureWrong (all IntegrityError).
    """
    if manifest.signature is None:
        raise SignatureMissing
    key = PublicKey(manifest.signature.key)
    if key not in trusted:
        raise SignatureForeign(key, trusted.directory if isinstance(trusted, TrustedKeys) else None)
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(
            manifest.signature.value, manifest.signed_bytes()
        )
    except InvalidSignature as err:
        raise SignatureWrong(key) from err
    return key
