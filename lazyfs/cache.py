"""What is local of images under ROOT/cache: paths of devices and ready maps, and bootstraps.

Beside a ready map may lie what was verified of a large chunk table (table_reader.py), or the
objects that a device of weights is made of. The digests of their pieces (object_table.py) lie in
``digests/``: they outlive the device's eviction, since what is fetched again must have them.

A bootstrap is unpacked, verified, placed by one rename, and verified again before each mount; that
costs less than waiting for the disk would. It must be complete: EROFS metadata reads raise no
events, so a sparse one would read zeros. Methods may be called from any thread; two that fetch the
same bootstrap at once each place the same bytes. Deleting any of these files is safe while nothing
is mounted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from hotstart.core.digest import Digest
from hotstart.core.errors import IntegrityError
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store import zstd_frame
from hotstart.store.blob_store import BlobStore
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import check_bootstrap, raw_digest, raw_size
from lazyfs.cache_contents import touch
from lazyfs.disk_space import DiskFull, is_full
from lazyfs.name_locks import NameLocks
from lazyfs.spec import MountSpec

log = get_logger(__name__)

RANGES = 4
"""Parallel requests for one bootstrap."""
RANGE_BYTES = 256 << 10
"""A bootstrap of this size or less is read at once."""


class Cache:
    """Local files of one root. Makes its directories."""

    def __init__(self, root: Path) -> None:
        self.devices = root / "cache" / "devices"
        self.bootstraps = root / "cache" / "bootstraps"
        self._bootstrap_uses = NameLocks()
        self.make_room: Callable[[int], bool] = lambda _: False
        """Deletes something when the disk is full; tells whether so many bytes fit then."""
        digests = root / "cache" / "digests"
        for directory in (self.devices, self.bootstraps, digests):
            directory.mkdir(parents=True, exist_ok=True)

    def device_path(self, device_id: str) -> Path:
        """The sparse file of a device."""
        return self.devices / f"{Digest(device_id).hex}.dev"

    def ready_path(self, device_id: str) -> Path:
        """The ready map of a device."""
        return self.devices / f"{Digest(device_id).hex}.ready"

    def bootstrap_path(self, digest: Digest) -> Path:
        """The file of a bootstrap, by its own digest."""
        return self.bootstraps / f"{digest.hex}.erofs"

    def using(self, bootstrap: str) -> AbstractContextManager[None]:
        """Hold a bootstrap (its digest in hex), so that it is not removed before it is mounted."""
        return self._bootstrap_uses.holding(bootstrap)

    def touch(self, spec: MountSpec) -> None:
        """Note that what an image needs of the cache is used now."""
        devices = [self.device_path(device.device_id) for device in spec.devices]
        touch([self.bootstrap_path(raw_digest(spec.bootstrap)), *devices])

    def objects_path(self, device_id: str) -> Path:
        """The object list of a device of weights."""
        return self.devices / f"{Digest(device_id).hex}.objects"

    def place_objects(self, device_id: str, content: bytes) -> None:
        """Keep an object list for the worker and its successors. Raises OSError (disk full)."""
        self._place(self.objects_path(device_id), content)

    def place_bootstrap(self, image: bytes) -> None:
        """Keep a bootstrap that was made here. Raises OSError (disk full)."""
        self._place(self.bootstrap_path(Digest.of(image)), image)

    def bootstrap(self, descriptor: Descriptor, blobs: BlobStore) -> Path:
        """Return the local, verified bootstrap, fetching it if it isn't here or isn't right.

        Raises ManifestInvalid, DigestMismatch, what the store raises, DiskFull or OSError.
        """
        check_bootstrap(descriptor)
        expected = raw_digest(descriptor)
        path = self.bootstrap_path(expected)
        if not _has_digest(path, expected):
            try:
                content = _unpacked(blobs, descriptor)
            except IntegrityError as err:  # a byte may have been flipped on its way
                log.warning("bootstrap_mismatch", error=err, action="fetching it once more")
                content = _unpacked(blobs, descriptor)
            try:
                self._place(path, content)
            except OSError as err:
                if not is_full(err):
                    raise
                self._place_again(path, content, err)
        return path

    def _place_again(self, path: Path, content: bytes, full: OSError) -> None:
        if not self.make_room(len(content)):
            raise DiskFull(f"{path.parent}: {full.strerror}") from full
        try:
            self._place(path, content)
        except OSError as err:
            if is_full(err):
                raise DiskFull(f"{path.parent}: {err.strerror}") from err
            raise

    def _place(self, path: Path, content: bytes | memoryview) -> None:
        """Place a file by one rename. Not synced: it is verified before each mount."""
        fd, staged = tempfile.mkstemp(dir=path.parent, prefix=".staged-")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            os.replace(staged, path)
        except BaseException:
            os.unlink(staged)
            raise


def _has_digest(path: Path, expected: Digest) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    if Digest.of(content) == expected:
        return True
    log.warning("bootstrap_damaged", path=path, action="fetching it again")
    return False


def _unpacked(blobs: BlobStore, descriptor: Descriptor) -> bytes:
    """Fetch a bootstrap, verified as it is stored and as it is mounted."""
    stored = _read(blobs, descriptor)
    descriptor.digest.check(stored, f"{blobs.url}: bootstrap")
    content = zstd_frame.decompress(stored, raw_size(descriptor))
    raw_digest(descriptor).check(content, f"bootstrap {descriptor.digest}, unpacked")
    return content


def _read(blobs: BlobStore, descriptor: Descriptor) -> bytes:
    """Return the stored bootstrap, in parallel ranges: it is on the way of every start."""
    size = descriptor.size
    if size <= RANGE_BYTES:
        return bytes(blobs.read(descriptor.digest, Span(0, size)))
    count = min(RANGES, -(-size // RANGE_BYTES))
    spans = list(Span(0, size).split(-(-size // count)))
    with ThreadPoolExecutor(count, "bootstrap") as pool:
        return b"".join(pool.map(lambda span: blobs.read(descriptor.digest, span), spans))
