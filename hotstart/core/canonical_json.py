"""One spelling for each JSON value, so that equal documents have equal digests."""

from __future__ import annotations

import json


def encode(value: object) -> bytes:
    """Return the canonical bytes of ``value``. Raises ValueError for NaN and infinities."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
