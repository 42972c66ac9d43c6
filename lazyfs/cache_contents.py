"""What lies in the cache: entries, how much of the disk each takes, and when it was last used.

    ROOT/cache/devices/HEX.dev, .ready, .verified    one device: HEX is its device id
    ROOT/cache/bootstraps/HEX.erofs, .checked        one bootstrap: HEX is its own digest

An entry is a device with the bootstraps that name it in their device table, or a bootstrap whose
devices aren't here. It is removed in an order that leaves, whenever the remover is killed, either
all of it or something that nobody believes: the ready map goes before the data that it vouches
for, and what is left over is *partial* and the first to go next time.

The time of the last use is the access time of the device file or bootstrap, set by ``touch`` (and
by the kernel, where it notes reads). Space is counted in the blocks that files really have. Whether
something may be removed, the caller must know.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hotstart.store.bootstrap_head import device_tags

_BLOCK_BYTES = 512
"""The unit of st_blocks (stat(2)), whatever the file system's own blocks are."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A device with its bootstraps, or a bootstrap alone. ``paths`` are in the order of removal."""

    name: str
    is_device: bool
    paths: tuple[Path, ...]
    bootstraps: tuple[str, ...]
    """Digests in hex."""
    allocated_bytes: int
    last_used_s: float
    partial: bool

    def remove(self) -> None:
        """Delete its files; those that are gone already are no error."""
        for path in self.paths:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class CacheContents:
    """The entries of one cache, the one unused longest first, and all its bytes on disk."""

    entries: tuple[CacheEntry, ...]
    allocated_bytes: int


def scan(cache: Path) -> CacheContents:
    """Read what is in ``cache`` (ROOT/cache); files that come and go meanwhile may be left out."""
    devices, bootstraps = _Files(cache / "devices"), _Files(cache / "bootstraps")
    named: dict[str, list[str]] = {}
    entries: list[CacheEntry] = []
    for digest in bootstraps.stems():
        owners = [tag for tag in _tags(bootstraps.path(digest, ".erofs")) if tag in devices.groups]
        if not owners:
            entries.append(_entry(digest, devices=None, bootstraps=bootstraps, names=[digest]))
        for owner in owners:
            named.setdefault(owner, []).append(digest)
    for device in devices.stems():
        names = named.get(device, [])
        entries.append(_entry(device, devices=devices, bootstraps=bootstraps, names=names))
    entries.sort(key=lambda entry: (not entry.partial, entry.last_used_s))
    return CacheContents(tuple(entries), devices.allocated_bytes + bootstraps.allocated_bytes)


def touch(paths: Iterable[Path]) -> None:
    """Note that these files are used now."""
    for path in paths:
        try:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except OSError:
            continue  # gone, or the disk is read-only: its order is all that suffers


class _Files:
    """The files of one directory, grouped by the part of their name before the first dot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.groups: dict[str, dict[str, os.stat_result]] = {}
        self.allocated_bytes = 0
        for item in os.scandir(directory):
            try:
                found = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            self.allocated_bytes += found.st_blocks * _BLOCK_BYTES
            stem, dot, rest = item.name.partition(".")
            if stem:  # others are staged, and no entry yet
                self.groups.setdefault(stem, {})[dot + rest] = found

    def stems(self) -> Iterator[str]:
        yield from self.groups

    def path(self, stem: str, suffix: str) -> Path:
        return self.directory / f"{stem}{suffix}"


def _entry(
    name: str, *, devices: _Files | None, bootstraps: _Files, names: list[str]
) -> CacheEntry:
    found: list[tuple[Path, os.stat_result]] = []
    if devices is not None:
        found.extend(_in_order(devices, name, (".ready", ".verified"), ".dev"))
    for digest in names:
        found.extend(_in_order(bootstraps, digest, (".checked",), ".erofs"))
    wanted = devices.groups[name] if devices is not None else bootstraps.groups[name]
    whole = {".dev", ".ready"} if devices is not None else {".erofs"}
    main = wanted.get(".dev") or wanted.get(".erofs")
    return CacheEntry(
        name=name,
        is_device=devices is not None,
        paths=tuple(path for path, _ in found),
        bootstraps=tuple(names),
        allocated_bytes=sum(stat.st_blocks * _BLOCK_BYTES for _, stat in found),
        last_used_s=main.st_atime if main is not None else 0.0,
        partial=not whole <= wanted.keys(),
    )


def _in_order(
    files: _Files, stem: str, first: tuple[str, ...], last: str
) -> list[tuple[Path, os.stat_result]]:
    """Return the files of one group: ``first``, whatever else is there, ``last``."""
    group = files.groups[stem]
    others = [suffix for suffix in group if suffix not in (*first, last)]
    order = [suffix for suffix in (*first, *others, last) if suffix in group]
    return [(files.path(stem, suffix), group[suffix]) for suffix in order]


def _tags(bootstrap: Path) -> tuple[str, ...]:
    """Return the devices that a bootstrap names; none if it can't be read."""
    try:
        with bootstrap.open("rb") as file:
            return device_tags(file.read(4096))
    except OSError:
        return ()
