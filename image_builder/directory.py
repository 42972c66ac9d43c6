"""A directory on this machine as a tree: scanned once, read later, checked when read.

``scan`` takes names, attributes and extended attributes; data is read during the build through
``FileContent``. Nothing may change in between: every file is compared with what the scan saw
after each read, and ``Scan.check_directories`` finds names that came or went. Symbolic links are
never followed. Root is needed to see every file and every ``trusted.*`` attribute.

Another file system mounted inside the source is refused: /proc of a running root would otherwise
be packed, and leaving it out in silence would lose data.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hotstart.core.span import Span
from image_builder.attributes import is_kept
from image_builder.errors import READ_AS_ROOT, LimitExceeded, SourceChanged, SourceInvalid, show
from image_builder.limits import Limits
from image_builder.tree import NO_XATTRS, Node, Tree

Identity = tuple[int, int, int, int, int]


def identity_of(status: os.stat_result) -> Identity:
    """Return what changes whenever a file's bytes do."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@dataclass(slots=True, eq=False)
class FileContent:
    """One regular file of a scanned directory, opened anew for each read."""

    path: bytes
    identity: Identity
    may_have_holes: bool

    @property
    def size(self) -> int:
        """Length in bytes, as scanned."""
        return self.identity[2]

    def data_spans(self) -> Sequence[Span]:
        """Return the allocated parts, from SEEK_DATA and SEEK_HOLE (lseek(2))."""
        if not self.may_have_holes:
            return (Span(0, self.size),) if self.size else ()
        fd = self._open()
        try:
            spans = list(_allocated(fd, self.size))
            self._check(fd)
        finally:
            os.close(fd)
        return spans

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` and make sure that the file is still the one listed."""
        fd = self._open()
        try:
            done = os.preadv(fd, [buffer], offset)
            while done < len(buffer):
                more = os.preadv(fd, [buffer[done:]], offset + done)
                if more == 0:
                    raise SourceChanged(show(self.path))
                done += more
            self._check(fd)
        except OSError as err:
            problem = f"can't be read: {err.strerror}"
            raise SourceInvalid(show(self.path), problem, READ_AS_ROOT) from err
        finally:
            os.close(fd)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise SourceChanged(show(self.path)) from err
            problem = f"can't be opened: {err.strerror}"
            raise SourceInvalid(show(self.path), problem, READ_AS_ROOT) from err

    def _check(self, fd: int) -> None:
        if identity_of(os.fstat(fd)) != self.identity:
            raise SourceChanged(show(self.path))


def _allocated(fd: int, size: int) -> Iterator[Span]:
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # no data behind this position
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < end:
            yield Span(start, end - start)
        position = end


@dataclass(slots=True)
class Scan:
    """A scanned directory: its tree, and how its directories looked while they were listed."""

    tree: Tree
    directories: list[tuple[bytes, Identity]] = field(default_factory=list)

    def check_directories(self) -> None:
        """Raise SourceChanged if a name was added or removed since the scan."""
        for path, identity in self.directories:
            try:
                # The root may be reached through a link; nothing below it is.
                now = identity_of(os.stat(path, follow_symlinks=path == self.directories[0][0]))
            except OSError as err:
                raise SourceChanged(show(path)) from err
            if now != identity:
                raise SourceChanged(show(path))


def scan(source: bytes, limits: Limits | None = None) -> Scan:
    """List ``source`` completely. Raises SourceInvalid, LimitExceeded.

    The result does not depend on where ``source`` lies nor on the order of its directories.
    """
    return _Scanner(source, limits or Limits()).run()


class _Scanner:
    """State of one scan: the nodes of hard-linked files, the number of entries so far."""

    def __init__(self, source: bytes, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._links: dict[tuple[int, int], Node] = {}
        self._entries = 0

    def run(self) -> Scan:
        try:
            status = os.stat(self._source)
        except OSError as err:
            problem = err.strerror or "can't be read"
            raise SourceInvalid(show(self._source), problem, READ_AS_ROOT) from err
        root = self._node(self._source, status)
        result = Scan(Tree(root))
        pending = [(self._source, status, root)]
        while pending:
            path, status, node = pending.pop()
            result.directories.append((path, identity_of(status)))
            for child_path, child_status, name in self._list(path):
                child = self._child(child_path, child_status)
                node.children[name] = child
                if child.is_directory:
                    if child_status.st_dev != status.st_dev:
                        raise SourceInvalid(
                            show(child_path),
                            "another file system is mounted here, inside the source",
                            "unmount it, or build from a copy of the tree",
                        )
                    pending.append((child_path, child_status, child))
        return result

    def _list(self, path: bytes) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    yield entry.path, entry.stat(follow_symlinks=False), entry.name
        except FileNotFoundError as err:
            raise SourceChanged(show(path)) from err
        except OSError as err:
            problem = f"can't be listed: {err.strerror}"
            raise SourceInvalid(show(path), problem, READ_AS_ROOT) from err

    def _child(self, path: bytes, status: os.stat_result) -> Node:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise LimitExceeded(show(self._source), "number of files", self._limits.entries)
        if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
            return self._node(path, status)
        key = (status.st_dev, status.st_ino)
        node = self._links.get(key)
        if node is None:
            node = self._links[key] = self._node(path, status)
        return node

    def _node(self, path: bytes, status: os.stat_result) -> Node:
        mode = status.st_mode
        node = Node(mode, status.st_uid, status.st_gid, status.st_mtime_ns, _xattrs(path, status))
        if stat.S_ISREG(mode):
            sparse = status.st_blocks * 512 < status.st_size
            node.content = FileContent(path, identity_of(status), sparse)
        elif stat.S_ISLNK(mode):
            node.target = _link_target(path)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            node.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return node


def _link_target(path: bytes) -> bytes:
    try:
        return os.readlink(path)
    except OSError as err:
        raise SourceChanged(show(path)) from err


def _xattrs(path: bytes, status: os.stat_result) -> Mapping[bytes, bytes]:
    follow = stat.S_ISDIR(status.st_mode)  # only the root may be reached through a link
    try:
        names = os.listxattr(path, follow_symlinks=follow)
        if not names:
            return NO_XATTRS
        return {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=follow)
            for name in sorted(names)
            if is_kept(os.fsencode(name))
        }
    except OSError as err:
        if err.errno in (errno.ENOTSUP, errno.ENOSYS):
            return NO_XATTRS
        if err.errno in (errno.ENOENT, errno.ENODATA):
            raise SourceChanged(show(path)) from err
        problem = f"attributes can't be read: {err.strerror}"
        raise SourceInvalid(show(path), problem, READ_AS_ROOT) from err
