"""The leases of a directory store: ROOT/leases/<name>, written as everything in it is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hotstart.store.directory import StoreFiles
from hotstart.store.lease_objects import LeaseEntry


class DirectoryLeases:
    """See LeaseObjects. The clock is the file system's: the time of the file just written."""

    def __init__(self, root: Path, url: str) -> None:
        self._files = StoreFiles(root, url)
        self._directory = root / "leases"

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._files.url

    def write(self, name: str, content: bytes) -> int:
        """Create or replace an object."""
        with self._files.errors():
            self._files.place(self._directory / name, content)
            return (self._directory / name).stat().st_mtime_ns

    def read(self, name: str) -> bytes | None:
        """Return an object's content, or None."""
        with self._files.errors():
            try:
                return (self._directory / name).read_bytes()
            except FileNotFoundError:
                return None

    def entries(self) -> list[LeaseEntry]:
        """Return every object."""
        found = []
        with self._files.errors(), suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                with suppress(FileNotFoundError):
                    modified_ns = (self._directory / name).stat().st_mtime_ns
                    found.append(LeaseEntry(name, modified_ns))
        return found

    def remove(self, name: str) -> None:
        """Remove an object."""
        with self._files.errors():
            (self._directory / name).unlink(missing_ok=True)
