"""What a built image really holds: its device made whole by a plain reader, and mounted."""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.span import Span
from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.mounts import unmount
from hotstart.store import zstd_frame
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.layers import raw_size
from hotstart.store.packs import decode_verified


@dataclass
class LocalImage:
    """Bootstrap and device as files."""

    bootstrap: Path
    devices: list


def bring_home(built, store, directory: Path) -> LocalImage:
    """Write bootstrap and devices of a manifest or built tree below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    bootstrap = directory / "bootstrap.erofs"
    stored = store.blobs.read(built.bootstrap.digest)
    bootstrap.write_bytes(zstd_frame.decompress(stored, raw_size(built.bootstrap)))
    paths = []
    for number, device in enumerate(built.devices):
        path = directory / f"{number}.dev"
        with path.open("wb") as file:
            file.truncate(device.size_bytes)
            for chunk in ChunkTable.open(store.blobs, device):
                os.pwrite(file.fileno(), chunk_bytes(store, device, chunk), chunk.device_offset)
        paths.append(path)
    return LocalImage(bootstrap, paths)


def chunk_bytes(store, device, chunk):
    """Return a chunk's verified bytes."""
    span = Span(chunk.pack_offset, chunk.stored_length)
    stored = store.blobs.read(device.packs[chunk.pack].digest, span)
    return decode_verified(
        stored, raw=chunk.raw, length=chunk.length, digest=chunk.digest, source="test"
    )


@contextlib.contextmanager
def mounted(built, store, directory: Path):
    """Mount a manifest or built tree and yield the mount point."""
    image = bring_home(built, store, directory)
    target = directory / "mnt"
    target.mkdir(exist_ok=True)
    mount_erofs(image.bootstrap, target, image.devices)
    try:
        yield target
    finally:
        unmount(target)


def described(root: Path) -> dict:
    """Return everything stat, readlink, getxattr and read tell of a tree, by path.

    Hard links are told by the smallest path of the same inode.
    """
    found, links = {}, {}
    for path in sorted([os.fsencode(root), *_below(os.fsencode(root))]):
        status = os.lstat(path)
        name = os.path.relpath(path, os.fsencode(root))
        first = links.setdefault(status.st_ino, name)
        directory = stat.S_ISDIR(status.st_mode)
        found[name] = (
            oct(status.st_mode),
            (status.st_uid, status.st_gid, status.st_nlink),
            status.st_mtime_ns,
            None if directory else status.st_size,
            status.st_rdev,
            None if directory else first,
            _xattrs(path),
            _data(path, status),
        )
    return found


def _below(root: bytes):
    for directory, names, files in os.walk(root):
        yield from (os.path.join(directory, name) for name in (*names, *files))


def _xattrs(path: bytes) -> dict:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def _data(path: bytes, status):
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    with open(path, "rb") as file:
        if status.st_size > 64 << 20:
            spans = (0, status.st_size // 2, status.st_size - 4096)
            return [os.pread(file.fileno(), 4096, at) for at in spans]
        return file.read()
