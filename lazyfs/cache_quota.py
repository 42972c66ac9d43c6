"""The cache's quota: a number in a file, ROOT/cache-quota, so that every agent of a root has it.

It is read at each check, so that a new one holds at once. No file: no quota.
"""

from __future__ import annotations

import re
from pathlib import Path

from hotstart.core.errors import UserError
from hotstart.core.log import get_logger

log = get_logger(__name__)

_NAME = "cache-quota"
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_quota(text: str) -> int | None:
    """Read ``200g``, ``512m``, plain bytes, or ``none``: no quota. Raises UserError."""
    word = text.strip().lower()
    if word == "none":
        return None
    match = re.fullmatch(r"(\d{1,15})([bkmgt]?)(?:i?b)?", word)
    if match is None:
        raise UserError(f"not a quota: {text[:40]!r}", "write 200g, 512m, bytes, or none")
    return int(match[1]) * _UNITS[match[2]]


def read_quota(root: Path) -> int | None:
    """Return the quota in bytes, or None: there is none."""
    try:
        text = (root / _NAME).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    if not (text.isascii() and text.isdecimal()):
        log.warning("cache_quota_unreadable", path=root / _NAME, content=text[:40])
        return None
    return int(text)


def write_quota(root: Path, quota_bytes: int | None) -> None:
    """Set the quota, or with None take it away, by one rename."""
    path = root / _NAME
    if quota_bytes is None:
        path.unlink(missing_ok=True)
        return
    staged = path.with_name(f".{_NAME}.staged")
    staged.write_text(f"{quota_bytes}\n", encoding="ascii")
    staged.replace(path)
