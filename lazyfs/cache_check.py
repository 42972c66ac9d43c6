"""Compares what is local of devices with their chunk tables, and repairs what is wrong.

Every chunk whose pages are all ready is read from the device file and held to its BLAKE3. A wrong
one is fetched from the store, verified, and written in place: right bytes over wrong ones harm no
reader, whether the device is mounted or not. Where that fails its pages are declared absent if
nobody uses the device, so that the next reader fetches them; under a mount that would not be seen
(a complete device raises no more events), and it stays a problem.

A process of its own, beside an agent or without one: the ready map is shared by mapping, and events
that our reads and writes raise on a marked file are answered at once, since their pages are ready.
What the kernel has cached of wrong bytes is dropped, except pages that a process has mapped. Needs
the rights of the cache's owner.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError, IntegrityError, NotFound, UserError
from hotstart.core.progress import Progress, ProgressSink
from hotstart.core.span import PAGE, Span, pages_of
from hotstart.kernel.keeper_client import KeeperClient, KeeperGone, KeeperRefused
from hotstart.store.blob_store import BlobStore, Content
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.packs import chunk_digest, decode_verified
from hotstart.store.ready_map import ReadyMap
from lazyfs.device_handles import KIND, device_set_name
from lazyfs.fill_client import FillClient
from lazyfs.image_mounts import MOUNT_KIND
from lazyfs.spec import MountSpec

_TASK = "cache"


@dataclass(slots=True)
class CacheReport:
    """What was compared, in devices, chunks and bytes, and what was wrong.

    ``repaired``: chunks written anew; ``dropped``: chunks declared absent; ``partial``: chunks of
    which only some pages are here, which have no digest. ``unrepaired``: what stays wrong;
    ``unknown``: devices whose chunk table this store does not have. ``mounts``: images mounted on
    repaired devices; a process that has mapped wrong pages keeps them until it ends.
    """

    devices: int = 0
    chunks: int = 0
    read_bytes: int = 0
    partial: int = 0
    repaired: int = 0
    dropped: int = 0
    unrepaired: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Chunks that were wrong."""
        return self.repaired + self.dropped + len(self.unrepaired)


@dataclass(slots=True)
class _Local:
    """One device that is here, open."""

    device_id: str
    fd: int
    ready: ReadyMap
    table: ChunkTable
    in_use: bool
    repaired: int = 0

    def has(self, chunk: Chunk) -> bool:
        return self.ready.missing(chunk.device_offset // PAGE, pages_of(chunk.length)) < 0

    def is_right(self, chunk: Chunk) -> bool:
        try:
            content = os.pread(self.fd, chunk.length, chunk.device_offset)
        except OSError:  # the disk can't give it back: writing it anew may help
            return False
        return chunk_digest(content) == chunk.digest


class CacheCheck:
    """Checks the cache of ``root`` against ``blobs``."""

    def __init__(self, root: Path, blobs: BlobStore, progress: ProgressSink) -> None:
        self._root = root
        self._directory = root / "cache" / "devices"
        self._blobs = blobs
        self._progress = progress
        self._report = CacheReport()

    def check(self, device_ids: Iterable[str] | None = None) -> CacheReport:
        """Check these devices as far as they are here; None: all that are.

        Raises UserError without the rights, OSError, Unavailable for a store that does not answer.
        """
        local = self._local()
        wanted = None if device_ids is None else set(device_ids)
        in_use, mounts = _held(self._root)
        for device_id in local:
            if wanted is None or device_id in wanted:
                self._check_device(device_id, in_use=device_id in in_use, mounts=mounts)
        done = self._report.read_bytes
        self._progress.update(Progress(_TASK, done, done, finished=True))
        return self._report

    def _local(self) -> list[str]:
        """Return the devices that are here. Raises UserError if they are another user's."""
        try:
            paths = sorted(self._directory.glob("*.dev"))
            readable = all(os.access(path, os.R_OK | os.W_OK) for path in paths)
        except PermissionError:
            readable = False
        if not readable:
            raise UserError(
                f"{self._directory}: the cache is another user's",
                "run it as root, or with --no-cache",
            )
        return [path.stem for path in paths]

    def _check_device(
        self, device_id: str, *, in_use: bool, mounts: Mapping[Path, MountSpec]
    ) -> None:
        ready_path = self._directory / f"{device_id}.ready"
        if not ready_path.exists():
            return
        try:
            table = ChunkTable.of_bytes(self._blobs.read(Digest(device_id)))
        except NotFound:
            self._report.unknown.append(device_id)
            return
        except IntegrityError as err:
            self._report.unrepaired.append(f"device {device_id[:12]}: its chunk table: {err}")
            return
        path = ready_path.with_suffix(".dev")
        if path.stat().st_size != table.device_size:
            return  # whoever opens it next takes it for empty
        with (
            path.open("r+b", buffering=0) as file,
            closing(ReadyMap.open(ready_path, device_id, pages_of(table.device_size))) as ready,
        ):
            local = _Local(device_id, file.fileno(), ready, table, in_use)
            self._check_chunks(local)
            if local.repaired:
                os.fdatasync(local.fd)
        self._report.devices += 1
        if local.repaired:
            self._drop_cached(device_id, mounts)

    def _check_chunks(self, local: _Local) -> None:
        if local.ready.needs_reverify:  # after a power loss: what does not verify is absent
            local.ready.reverify(lambda s: os.pread(local.fd, s.length, s.offset), local.table)
        for chunk in local.table:
            if not local.has(chunk):
                first = chunk.device_offset // PAGE
                pages = range(first, first + pages_of(chunk.length))
                self._report.partial += any(local.ready.missing(p, 1) < 0 for p in pages)
                continue
            self._report.chunks += 1
            self._report.read_bytes += chunk.length
            if not local.is_right(chunk) and local.has(chunk):  # else it was evicted meanwhile
                self._repair(local, chunk)
            self._progress.update(Progress(_TASK, self._report.read_bytes, None))

    def _repair(self, local: _Local, chunk: Chunk) -> None:
        try:
            _write(local.fd, self._content(local.table, chunk), chunk.device_offset)
        except (HotstartError, OSError) as err:
            if local.in_use:
                where = f"device {local.device_id[:12]} at {chunk.device_offset}"
                self._report.unrepaired.append(f"{where}: in use, and not to be repaired: {err}")
                return
            local.ready.clear(chunk.device_offset // PAGE, pages_of(chunk.length))
            self._report.dropped += 1
        else:
            local.repaired += 1
            self._report.repaired += 1

    def _content(self, table: ChunkTable, chunk: Chunk) -> Content:
        """Return a chunk's verified bytes from the store, asked once more if they come wrong."""
        try:
            return self._fetched(table, chunk)
        except IntegrityError:
            return self._fetched(table, chunk)

    def _fetched(self, table: ChunkTable, chunk: Chunk) -> Content:
        pack = table.packs[chunk.pack]
        stored = self._blobs.read(pack, Span(chunk.pack_offset, chunk.stored_length))
        source = f"{self._blobs.url}: blob {pack} at {chunk.pack_offset}"
        return decode_verified(
            stored, raw=chunk.raw, length=chunk.length, digest=chunk.digest, source=source
        )

    def _drop_cached(self, device_id: str, mounts: Mapping[Path, MountSpec]) -> None:
        """Drop what the kernel keeps of a repaired device, lowest first."""
        _forget(self._root / "run" / "fuse" / device_id / "0.dev")
        for path, spec in mounts.items():
            if device_id in {device.device_id for device in spec.devices}:
                for file in _files(path):
                    _forget(file)
                if str(path) not in self._report.mounts:
                    self._report.mounts.append(str(path))


def _write(fd: int, content: Content, offset: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _held(root: Path) -> tuple[set[str], dict[Path, MountSpec]]:
    """Return which devices are served, and the mounts on them by path; neither without a keeper."""
    try:
        with KeeperClient(root / "run" / "keeper.sock") as keeper:
            served = {name.removeprefix(device_set_name("")) for name in keeper.names(KIND)}
            metas = list(_metas(keeper))
    except (KeeperGone, FileNotFoundError):
        return set(), {}
    return served, {Path(meta["path"]): MountSpec.from_json(meta["spec"]) for meta in metas}


def _metas(keeper: KeeperClient) -> Iterator[dict[str, Any]]:
    for name in keeper.names(MOUNT_KIND):
        with suppress(KeeperRefused):  # unmounted in between
            held = keeper.get(name)
            held.close()
            yield held.meta


def _files(directory: Path) -> Iterator[Path]:
    """Yield the regular files of a mount: names and kinds are metadata, which is never absent."""
    for place, _, files in os.walk(directory):
        for name in files:
            path = Path(place, name)
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    yield path


def _forget(path: Path) -> None:
    """Drop a file's clean, unmapped pages from the page cache."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def lift_quarantine(root: Path) -> None:
    """Have the worker of ``root``, if one runs, fetch again what came wrong twice."""
    with suppress(HotstartError, OSError):
        FillClient(root / "run" / "fill.sock", away_s=0.0).lift_quarantine()
