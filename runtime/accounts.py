"""Who ``USER[:GROUP]`` is inside an image: its own /etc/passwd and /etc/group decide.

Snapshots name a user by numbers, ``UID:GID+GROUP+GROUP``, supplementary groups after the plus.

Both files are read from the mounted root without following links out of it. Numbers need no
entry. Lines that don't parse are skipped, as the C library does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hotstart.core.errors import UserError
from hotstart.kernel.inside import read_inside

_HIGHEST_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Account:
    """Numeric identity of a process, and where it is at home."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve_user(rootfs: Path, wanted: str) -> Account:
    """Return the account for ``USER[:GROUP]``; empty means root. Raises UserError if unknown.

    As other runtimes do: without a group the account's own group and supplementary groups apply;
    with one, only that. A bare number without an entry gets group 0.
    """
    user, colon, group = (wanted or "0").partition(":")
    entry = _find(rootfs, "passwd", user)
    if entry is not None:
        name, uid, gid, home = entry[0], int(entry[2]), int(entry[3]), entry[5] or "/"
    else:
        name, uid, gid, home = "", _number(user, "user", wanted), 0, "/"
    numbers = numeric_account(wanted)
    if numbers is not None:
        return replace(numbers, home=home)
    if colon:
        return Account(uid, _group(rootfs, group, wanted), (), home)
    return Account(uid, gid, _supplementary(rootfs, name), home)


def numeric_account(wanted: str) -> Account | None:
    """Return the account for ``UID:GID[+GROUP...]``, all numbers, without looking anything up.

    None for anything else.
    """
    user, _, groups = wanted.partition(":")
    group, *more = groups.split("+")
    if not all(map(_is_id, (user, group, *more))):
        return None
    return Account(int(user), int(group), tuple(map(int, more)))


def user_of(process: Mapping[str, Any]) -> str:
    """Return who a ``process`` of config.json runs as, as ``numeric_account`` reads it."""
    user = process["user"]
    more = "".join(f"+{group}" for group in user.get("additionalGids", ()))
    return f"{user['uid']}:{user['gid']}{more}"


def _group(rootfs: Path, group: str, wanted: str) -> int:
    entry = _find(rootfs, "group", group)
    return int(entry[2]) if entry is not None else _number(group, "group", wanted)


def _supplementary(rootfs: Path, name: str) -> tuple[int, ...]:
    if not name:
        return ()
    entries = _entries(rootfs, "group")
    return tuple(sorted({int(e[2]) for e in entries if name in e[3].split(",")}))


def _find(rootfs: Path, table: str, key: str) -> list[str] | None:
    """Return the entry by name, else by number."""
    entries = list(_entries(rootfs, table))
    by_name = next((entry for entry in entries if entry[0] == key), None)
    return by_name or next((entry for entry in entries if entry[2] == key), None)


def _entries(rootfs: Path, table: str) -> Iterator[list[str]]:
    width, numbers = (7, (2, 3)) if table == "passwd" else (4, (2,))
    text = (read_inside(rootfs, f"etc/{table}", limit=16 << 20) or b"").decode(errors="replace")
    for line in text.splitlines():
        entry = line.split(":")
        if len(entry) == width and all(_is_id(entry[at]) for at in numbers):
            yield entry


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _HIGHEST_ID


def _number(text: str, kind: str, wanted: str) -> int:
    if not _is_id(text):
        table = "passwd" if kind == "user" else "group"
        whole = f" of {wanted[:80]!r}" if text != wanted else ""
        raise UserError(
            f"{kind} {text[:80]!r}{whole} is not in the image's /etc/{table}",
            "give a number or a name that the image has",
        )
    return int(text)
