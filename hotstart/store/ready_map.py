"""Ready map: which pages of a device file are local and verified.

A file of a 4096-byte header (docs/formats/ready-map.md) and then one byte per page: 0 absent,
1 ready. It is mapped, shared, by every process that fills or reads the device; a byte is set only
after the page's data was written, so it outlives the death of any of them (the page cache keeps
it). One byte per page makes every change a single store: no lock is needed between processes.

Power loss is another matter: a byte may reach the disk before the data it vouches for. The header
therefore names the boot in which the map was used, and the digest of its bytes as of the last
sync() (data on disk first, then map, then digest). Opened in another boot, a map is believed only
if its bytes still have that digest. Otherwise it starts empty, and ``reverify`` may win back those
chunks whose data proves to be right.

A map is believed only beside its device file: without one, or with one that holds no data at all,
it starts empty. So open the map before the device file is made, or give a path that exists.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from blake3 import blake3

from hotstart.core.log import get_logger
from hotstart.core.span import PAGE, Span
from hotstart.store.chunk_table_layout import Chunk
from hotstart.store.packs import chunk_digest
from hotstart.store.ready_map_header import (
    BOOT_OFFSET,
    COMPLETE_OFFSET,
    HEADER_BYTES,
    SYNCED_OFFSET,
    ReadyMapInvalid,
    current_boot_id,
    encode_header,
    parse_header,
)

__all__ = ["ReadyMap", "ReadyMapInvalid", "is_complete"]

log = get_logger(__name__)

_READY = b"\1"
_ABSENT = b"\0"
_NO_DIGEST = bytes(32)


class ReadyMap:
    """An open, mapped ready map. Methods may be called from any thread; close it when done."""

    def __init__(self, path: Path, fd: int, mapped: mmap.mmap, claims: bytes) -> None:
        """Take over ``fd`` and ``mapped``; use ``open`` instead."""
        self.path = path
        self.pages = len(mapped) - HEADER_BYTES
        self._fd = fd
        self._map = mapped
        self._claims = claims
        self._has_blocks = bytearray(-(-len(mapped) // PAGE))

    @classmethod
    def open(
        cls,
        path: Path,
        device_id: str,
        pages: int,
        *,
        device: Path | None = None,
        boot_id: bytes | None = None,
    ) -> ReadyMap:
        """Open the map of a device, or make an empty one, all at once.

        ``device`` is the device file (default: beside the map, ``.dev``). A file that is no map
        of this device is replaced by an empty map. Raises FormatVersionUnknown for a map of a
        newer version, OSError for what the file system refuses.
        """
        boot = current_boot_id() if boot_id is None else boot_id
        file = device if device is not None else path.with_suffix(".dev")
        with _directory_locked(path.parent):
            if not _is_usable(path, device_id, pages):
                _create(path, encode_header(device_id, pages, boot))
            fd, mapped = _map_file(path, HEADER_BYTES + pages)
            claims = _distrust_other_boot(mapped, boot)
            if not _holds_data(file):
                # In place, not by a new file: others may have this one mapped already.
                _empty(mapped)
                claims = b""
        if claims.count(_READY):
            log.warning("ready_map_distrusted", path=path, claimed_pages=claims.count(_READY))
        return cls(path, fd, mapped, claims)

    def __enter__(self) -> ReadyMap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap; the file stays. Closing twice is no error."""
        if not self._map.closed:
            self._map.close()
            os.close(self._fd)

    def missing(self, first: int, pages: int) -> int:
        """Return the first absent page of ``pages`` from ``first`` on, or -1 if all are ready.

        Pages beyond the device count as ready.
        """
        start = HEADER_BYTES + first
        found = self._map.find(_ABSENT, start, min(start + pages, HEADER_BYTES + self.pages))
        return -1 if found < 0 else found - HEADER_BYTES

    def set(self, first: int, pages: int) -> None:
        """Declare pages ready. Call it only after their data was written and verified.

        Raises OSError (ENOSPC), and has set none, where the map needs a block more.
        """
        self._check(first, pages)
        start = HEADER_BYTES + first
        self._give_blocks(start, start + pages)
        self._map[start : start + pages] = _READY * pages

    def clear(self, first: int, pages: int) -> None:
        """Declare pages absent, on disk too before it returns; punch their data only afterwards."""
        self._check(first, pages)
        start = HEADER_BYTES + first
        self._map[COMPLETE_OFFSET : COMPLETE_OFFSET + 1] = _ABSENT
        self._map[SYNCED_OFFSET : SYNCED_OFFSET + 32] = _NO_DIGEST
        _clear(self._map, start, start + pages)
        self._map.flush()

    def ready_pages(self) -> int:
        """Return how many pages are ready."""
        return self._body().count(_READY)

    @property
    def complete(self) -> bool:
        """Whether every page is ready; quick once it has been true."""
        if self._map[COMPLETE_OFFSET] == 0 and self.missing(0, self.pages) < 0:
            self._map[COMPLETE_OFFSET : COMPLETE_OFFSET + 1] = _READY
        return self._map[COMPLETE_OFFSET] != 0

    def sync(self, device_fd: int) -> None:
        """Put data and map on disk, so that the map is believed after a power loss.

        Pages set while it runs are not covered, and make the next boot distrust the map unless
        it is synced again. Blocks for as long as the disk takes.
        """
        covered = self._body()
        os.fdatasync(device_fd)
        self._record(covered)

    def mark_synced(self) -> None:
        """Put the map on disk as one whose data is there already.

        Call it after fdatasync of the device and only if no page was set since it began; sync()
        does both safely.
        """
        self._record(self._body())

    @property
    def needs_reverify(self) -> bool:
        """Whether this opening distrusted pages that ``reverify`` may win back."""
        return bool(self._claims.count(_READY))

    def reverify(self, read_device: Callable[[Span], bytes], chunks: Iterable[Chunk]) -> int:
        """Keep the distrusted chunks whose bytes on disk verify; return how many pages that is.

        ``read_device`` returns the bytes of a span of the device file; ``chunks`` is its chunk
        table. Only chunks that were claimed whole are read.
        """
        claims, self._claims = self._claims, b""
        kept = 0
        for chunk in chunks:
            first, pages = chunk.device_offset // PAGE, chunk.length // PAGE
            if claims[first : first + pages] != _READY * pages:
                continue
            content = read_device(Span(chunk.device_offset, chunk.length))
            if chunk_digest(content) == chunk.digest:
                self.set(first, pages)
                kept += pages
        return kept

    def _give_blocks(self, start: int, end: int) -> None:
        """Have the file system allocate these bytes of the map; a second time costs nothing."""
        first, last = start // PAGE, -(-end // PAGE)
        if self._has_blocks.find(0, first, last) >= 0:
            length = min(last * PAGE, len(self._map)) - first * PAGE
            os.posix_fallocate(self._fd, first * PAGE, length)
            self._has_blocks[first:last] = _READY * (last - first)

    def _body(self) -> bytes:
        return self._map[HEADER_BYTES : HEADER_BYTES + self.pages]

    def _record(self, covered: bytes) -> None:
        # The bytes go first: a digest on disk always speaks of bytes on disk, or doesn't match.
        self._map.flush()
        self._map[SYNCED_OFFSET : SYNCED_OFFSET + 32] = blake3(covered).digest()
        self._map.flush(0, HEADER_BYTES)

    def _check(self, first: int, pages: int) -> None:
        if first < 0 or pages < 0 or first + pages > self.pages:
            raise ValueError(f"pages {first}+{pages} of a device of {self.pages}")


def is_complete(path: Path, device_id: str, pages: int, *, device: Path) -> bool:
    """Tell whether a device is local as a whole, without opening its map: nothing is changed.

    Opening a map after a power loss empties it and hands its claims to the one who opened it;
    whoever only wants to know must not be that one. True means that ``open`` would find it whole.
    """
    if not (_is_usable(path, device_id, pages) and _holds_data(device)):
        return False
    content = path.read_bytes()
    body = content[HEADER_BYTES:]
    same_boot = content[BOOT_OFFSET : BOOT_OFFSET + 16] == current_boot_id()
    synced = content[SYNCED_OFFSET : SYNCED_OFFSET + 32]
    return body.count(_READY) == pages and (same_boot or blake3(body).digest() == synced)


@contextmanager
def _directory_locked(directory: Path) -> Iterator[None]:
    """Keep other openers out while a map is checked or replaced."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_usable(path: Path, device_id: str, pages: int) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    try:
        parse_header(header, device_id=device_id, pages=pages)
    except ReadyMapInvalid as err:
        log.warning("ready_map_replaced", path=path, reason=err.reason)
        return False
    return size == HEADER_BYTES + pages


def _holds_data(device: Path) -> bool:
    """Tell whether a map may vouch for the file: one without a single block has no data."""
    try:
        return device.stat().st_blocks > 0
    except FileNotFoundError:
        return False


def _create(path: Path, header: bytes) -> None:
    staged = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with staged.open("wb") as file:
            file.write(header)
            file.truncate(HEADER_BYTES + parse_header(header).pages)
        # Not synced: what a power loss leaves of an empty map is empty, or no map at all, and a
        # start would wait for the disk here.
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _map_file(path: Path, size: int) -> tuple[int, mmap.mmap]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return descriptor, mmap.mmap(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def _distrust_other_boot(mapped: mmap.mmap, boot: bytes) -> bytes:
    """Empty a map of another boot unless it proves to be synced; return what it claimed."""
    if mapped[BOOT_OFFSET : BOOT_OFFSET + 16] == boot:
        return b""
    body = mapped[HEADER_BYTES:]
    claims = b""
    if blake3(body).digest() != mapped[SYNCED_OFFSET : SYNCED_OFFSET + 32]:
        claims = body
        # Empty on disk before the new boot's name is: else a second power loss revives the claims.
        _empty(mapped)
    mapped[BOOT_OFFSET : BOOT_OFFSET + 16] = boot
    mapped.flush(0, HEADER_BYTES)
    return claims


def _empty(mapped: mmap.mmap) -> None:
    """Declare every page absent, durably; an empty map costs nothing."""
    mapped[COMPLETE_OFFSET : COMPLETE_OFFSET + 1] = _ABSENT
    _clear(mapped, HEADER_BYTES, len(mapped))
    mapped.flush()


def _clear(mapped: mmap.mmap, start: int, end: int) -> None:
    """Zero a range; holes of the file stay holes: a full disk has no blocks for them."""
    at = start
    while at < end:
        stop = min(end, (at // PAGE + 1) * PAGE)
        if mapped[at:stop] != bytes(stop - at):
            mapped[at:stop] = bytes(stop - at)
        at = stop
