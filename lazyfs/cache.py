"""What is local of images under ROOT/cache: paths of devices and ready maps, and bootstraps.

A bootstrap is unpacked, verified against both of its digests, and placed by one rename; after that
it is trusted by its name. It must be complete: EROFS metadata reads raise no events, so a sparse
one would read zeros. Methods may be called from any thread; two that fetch the same bootstrap at
once each place the same bytes. Deleting any of these files is safe while nothing is mounted.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hotstart.core.digest import Digest
from hotstart.store import zstd_frame
from hotstart.store.blob_store import BlobStore
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import check_bootstrap, raw_digest, raw_size


class Cache:
    """Local files of one root. Makes its directories."""

    def __init__(self, root: Path) -> None:
        self.devices = root / "cache" / "devices"
        self.bootstraps = root / "cache" / "bootstraps"
        for directory in (self.devices, self.bootstraps):
            directory.mkdir(parents=True, exist_ok=True)

    def device_path(self, device_id: str) -> Path:
        """The sparse file of a device."""
        return self.devices / f"{Digest(device_id).hex}.dev"

    def ready_path(self, device_id: str) -> Path:
        """The ready map of a device."""
        return self.devices / f"{Digest(device_id).hex}.ready"

    def bootstrap(self, descriptor: Descriptor, blobs: BlobStore) -> Path:
        """Return the local, verified bootstrap, fetching it if it isn't here.

        Raises ManifestInvalid, DigestMismatch, what the store raises, or OSError (disk full).
        """
        check_bootstrap(descriptor)
        expected = raw_digest(descriptor)
        path = self.bootstraps / f"{expected.hex}.erofs"
        if not path.exists():
            stored = blobs.read(descriptor.digest)
            content = zstd_frame.decompress(stored, raw_size(descriptor))
            expected.check(content, f"bootstrap {descriptor.digest}, unpacked")
            self._place(path, content)
        return path

    def _place(self, path: Path, content: bytes | memoryview) -> None:
        fd, staged = tempfile.mkstemp(dir=path.parent, prefix=".staged-")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fdatasync(fd)
            os.replace(staged, path)
        except BaseException:
            os.unlink(staged)
            raise
