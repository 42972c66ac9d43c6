"""DirectoryStore: a store in a directory, the embedded default.

    ROOT/blobs/sha256/<hex>                     immutable blobs
    ROOT/references/<repository>/_tags/<tag>    reference documents (references.py)
    ROOT/references/.lock                       flock: one reference changes at a time
    ROOT/leases/<name>                          who is at work (directory_leases.py)
    ROOT/staging/<random>                       files being written; left ones are swept after a day

Everything new is written below staging/ (same file system), fsynced, renamed into place, and the
directory fsynced: a crash leaves the old or the new, never a part. Readers need no lock and no
write access. The version of a reference is the digest of its document. Works on any local file
system; on network file systems flock must work.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.core.span import PAGE, Span
from hotstart.store.blob_store import (
    BlobNotFound,
    Content,
    SpanOutside,
    StoredBlob,
    StoreDenied,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
    Writable,
)
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import (
    Reference,
    ReferenceChanged,
    ReferenceName,
    ReferenceNameInvalid,
    ReferenceNotFound,
    encode_reference,
    read_reference,
)

_DIRECT_BYTES = 1 << 20
_STALE_STAGING_S = 24 * 3600
_COMPARE_BYTES = 1 << 20
_TAGS = "_tags"
"""No component of a repository begins with an underscore, so a tag never meets a repository."""


class StoreFiles:
    """The directory and the three things both halves need: errors, staging, durable placement."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the file system says into the store's errors."""
        try:
            yield
        except OSError as err:
            raise self._error(err) from err

    def _error(self, err: OSError) -> Exception:
        if err.errno == errno.EROFS:
            return StoreReadOnly(self.url)
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(self.url)
        if err.errno in (errno.EACCES, errno.EPERM):
            path = err.filename or self.root
            return StoreDenied(
                self.url,
                f"no permission for {path}",
                "have this user permitted to use it, or choose another --store",
            )
        if err.errno in (errno.ENOENT, errno.ENOTDIR) and not self.root.is_dir():
            return StoreMissing(self.url)
        return StoreUnavailable(self.url, str(err))

    def make(self, directory: Path) -> None:
        """Make a directory and its parents below the root, each durably."""
        if directory.is_dir():
            return
        if directory != self.root:
            self.make(directory.parent)
        else:
            directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir()
        _sync(directory.parent)

    def place(self, target: Path, content: Writable) -> None:
        """Make ``target`` appear with ``content``, durably and all at once."""
        self.make(self.root / "staging")
        self.make(target.parent)
        staged = self.root / "staging" / secrets.token_hex(16)
        try:
            with staged.open("xb") as file:
                _write(file.fileno(), memoryview(content).cast("B"))
                os.fsync(file.fileno())
            staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        _sync(target.parent)

    def sweep(self) -> None:
        """Remove what writers that died have left in staging."""
        oldest = time.time() - _STALE_STAGING_S
        with suppress(OSError), os.scandir(self.root / "staging") as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    Path(entry.path).unlink(missing_ok=True)


def _write(descriptor: int, content: memoryview) -> None:
    """Write all of it; whole pages of large content past the page cache, where that is possible.

    Nobody reads a pack again soon, and a copy of it in the cache costs as much as reading its
    sources (open(2), O_DIRECT: buffer, length and offset must be aligned, else EINVAL).
    """
    done = 0
    if len(content) >= _DIRECT_BYTES:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
            done = _write_until(descriptor, content, 0, len(content) // PAGE * PAGE)
        except OSError as err:
            if err.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        finally:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    _write_until(descriptor, content, done, len(content))


def _write_until(descriptor: int, content: memoryview, start: int, end: int) -> int:
    while start < end:
        start += os.pwrite(descriptor, content[start:end], start)
    return start


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prepare_directory(root: Path, url: str, *, create: bool) -> None:
    """Check that a store can be at ``root``; make the directory with ``create``.

    Raises StoreMissing, or what the file system refuses as a store error.
    """
    files = StoreFiles(root, url)
    with files.errors():
        if root.is_dir():
            files.sweep()
        elif root.exists():
            raise UserError(f"{url}: this is a file, not a directory", "choose another --store")
        elif create:
            files.make(root)
        else:
            raise StoreMissing(url)


class DirectoryBlobs:
    """The blobs of a directory store. Thread-safe, process-safe, without locks."""

    def __init__(self, root: Path, url: str) -> None:
        self._files = StoreFiles(root, url)
        self._directory = root / "blobs" / "sha256"

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._files.url

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes of ``span``, or all. See BlobStore."""
        with self._files.errors(), self._opened(digest) as descriptor:
            size = os.fstat(descriptor).st_size
            wanted = Span(0, size) if span is None else span
            if wanted.end > size:
                raise SpanOutside(self.url, digest, wanted)
            return _read_exactly(descriptor, wanted, self.url)

    def size(self, digest: Digest) -> int:
        """Return the size in bytes."""
        with self._files.errors(), self._opened(digest) as descriptor:
            return os.fstat(descriptor).st_size

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        try:
            self.size(digest)
        except BlobNotFound:
            return False
        return True

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``. See BlobStore."""
        if not is_checked:
            digest.check(content, "blob to be stored")
        target = self._directory / digest.hex
        with self._files.errors():
            if not (_holds(target, content) and _renew(target)):
                self._files.place(target, content)

    def remove(self, digest: Digest) -> None:
        """Remove the blob."""
        with self._files.errors():
            try:
                (self._directory / digest.hex).unlink()
            except FileNotFoundError as err:
                raise self._absent(digest) from err
            _sync(self._directory)

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Yield each blob and its size."""
        with self._files.errors():
            try:
                names = os.listdir(self._directory)
            except FileNotFoundError:
                names = []
                os.stat(self._files.root)
        for name in names:
            with suppress(BlobNotFound, UserError):
                digest = Digest(name)
                yield digest, self.size(digest)

    def entries(self) -> Iterator[StoredBlob]:
        """Yield each blob with its size and time."""
        for digest, _ in self.digests():
            with suppress(BlobNotFound), self._files.errors(), self._opened(digest) as descriptor:
                found = os.fstat(descriptor)
                yield StoredBlob(digest, found.st_size, found.st_mtime_ns)

    @contextmanager
    def _opened(self, digest: Digest) -> Iterator[int]:
        try:
            descriptor = os.open(self._directory / digest.hex, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as err:
            raise self._absent(digest) from err
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _absent(self, digest: Digest) -> Exception:
        if not self._files.root.is_dir():
            return StoreMissing(self.url)
        return BlobNotFound(self.url, digest)


def _holds(path: Path, content: Writable) -> bool:
    """Tell whether a file is exactly ``content``; a damaged one is replaced, not trusted."""
    view = memoryview(content)
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != view.nbytes:
                return False
            return all(
                file.read(step.length) == view[step.offset : step.end]
                for step in Span(0, view.nbytes).split(_COMPARE_BYTES)
            )
    except FileNotFoundError:
        return False


def _renew(path: Path) -> bool:
    """Set the file's time to now; False if it is gone or another user's."""
    try:
        os.utime(path)
    except (FileNotFoundError, PermissionError):
        return False
    return True


def _read_exactly(descriptor: int, span: Span, url: str) -> bytes:
    content = os.pread(descriptor, span.length, span.offset)
    if len(content) == span.length:
        return content
    parts, done = [content], len(content)
    while done < span.length:
        # One pread(2) returns at most 2 GiB - 4 KiB.
        part = os.pread(descriptor, span.length - done, span.offset + done)
        if not part:
            raise StoreUnavailable(url, f"{done} bytes read, expected {span.length}")
        parts.append(part)
        done += len(part)
    return b"".join(parts)


class DirectoryReferences:
    """The references of a directory store; changes are serialised by one flock."""

    def __init__(self, root: Path, url: str) -> None:
        self._files = StoreFiles(root, url)
        self._directory = root / "references"

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._files.url

    def get(self, name: ReferenceName) -> Reference:
        """Return what ``name`` points to now."""
        with self._files.errors():
            return self._read(name)

    def swap(self, name: ReferenceName, target: Descriptor, expected: str | None) -> Reference:
        """Replace ``name`` if it is at ``expected``. See ReferenceStore."""
        content = encode_reference(name, target)
        with self._files.errors(), self._locked():
            if self._version(name) != expected:
                raise ReferenceChanged(self.url, name, expected)
            self._files.place(self._path(name), content)
        return Reference(name, target.without_data(), str(Digest.of(content)))

    def remove(self, name: ReferenceName, expected: str) -> None:
        """Remove ``name`` if it is at ``expected``."""
        with self._files.errors(), self._locked():
            version = self._version(name)
            if version is None:
                raise ReferenceNotFound(self.url, name)
            if version != expected:
                raise ReferenceChanged(self.url, name, expected)
            path = self._path(name)
            path.unlink()
            _sync(path.parent)
            self._prune(path.parent)

    def names(self) -> Iterator[ReferenceName]:
        """Yield every name, sorted."""
        with self._files.errors():
            found = sorted(self._found())
        yield from found

    def _found(self) -> Iterator[ReferenceName]:
        for directory, _, files in os.walk(self._directory, onerror=_raise_unless_gone):
            parent, _, last = directory.rpartition("/")
            if last != _TAGS:
                continue
            repository = os.path.relpath(parent, self._directory)
            for tag in files:
                with suppress(ReferenceNameInvalid):
                    yield ReferenceName(repository, tag)

    def _read(self, name: ReferenceName) -> Reference:
        try:
            content = self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as err:
            raise ReferenceNotFound(self.url, name) from err
        return read_reference(self.url, name, content, str(Digest.of(content)))

    def _version(self, name: ReferenceName) -> str | None:
        # The version alone: a document that cannot be parsed can still be replaced or removed.
        try:
            return str(Digest.of(self._path(name).read_bytes()))
        except FileNotFoundError:
            return None

    def _path(self, name: ReferenceName) -> Path:
        return self._directory / name.repository / _TAGS / name.tag

    def _prune(self, directory: Path) -> None:
        """Remove directories that a removed reference leaves empty; held by the lock."""
        with suppress(OSError):
            while directory != self._directory:
                directory.rmdir()
                directory = directory.parent

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._files.make(self._directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._directory / ".lock", flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _raise_unless_gone(err: OSError) -> None:
    if err.errno != errno.ENOENT:
        raise err
