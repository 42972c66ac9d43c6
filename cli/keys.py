"""The keys that a root trusts: its own, and those in keys/trusted. Read here, never made here."""

from __future__ import annotations

from pathlib import Path

from hotstart.core.errors import UserError
from hotstart.store.signing import NodeKey, PublicKey, load_trusted


def trusted_keys(root: Path) -> tuple[PublicKey, ...]:
    """Return the public keys that ``root`` trusts; a root without a key of its own trusts fewer.

    Raises UserError when the keys may not be read.
    """
    own = root / "keys" / "node.ed25519"
    try:
        made = (NodeKey.load_or_create(own).public,) if own.exists() else ()
        return load_trusted(root / "keys" / "trusted", *made)
    except PermissionError as err:
        raise UserError(
            f"{own}: only root may read the keys", "run it as root, or add --trust-unsigned"
        ) from err
