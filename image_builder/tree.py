"""The merged file tree of an image: plain values in memory, names and paths as bytes.

A ``Node`` is an inode. Hard links are several directory entries that hold the same ``Node``, so
identity (``is``) is what tells links from copies. A tree holds no file data and no descriptors:
a regular file has a ``Content`` that reads its bytes on demand from wherever they lie.

A tree belongs to one thread until it is complete, and is only read after that. Paths are
relative to the root, without a leading slash; the root's own path is ``b""``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hotstart.core.span import Span

NO_XATTRS: Mapping[bytes, bytes] = {}
"""Shared by the many inodes that have none."""


class Content(Protocol):
    """The bytes of one regular file. May be read from several threads at once."""

    @property
    def size(self) -> int:
        """Length in bytes, holes included."""
        ...

    def data_spans(self) -> Sequence[Span]:
        """Return the parts that hold data, ascending and apart; the rest are holes (zeros).

        Raises SourceChanged if the file is no longer the one that was listed.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` from ``offset``; holes read as zeros.

        Raises SourceChanged if the file is no longer the one that was listed, SourceInvalid if it
        can't be read. Never fills a part only and returns.
        """


@dataclass(frozen=True, slots=True)
class BytesContent:
    """A small file whose bytes are already in memory."""

    content: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.content)

    def data_spans(self) -> Sequence[Span]:
        """Return one span: bytes in memory have no holes."""
        return (Span(0, self.size),) if self.content else ()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``."""
        buffer[:] = self.content[offset : offset + len(buffer)]


@dataclass(slots=True, eq=False)
class Node:
    """One inode. ``mode`` holds type and permission bits as in stat(2); times are Unix ns."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: NO_XATTRS)
    content: Content | None = None
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def kind(self) -> int:
        """The type bits of the mode, ``stat.S_IFREG`` and so on."""
        return stat.S_IFMT(self.mode)

    @property
    def is_directory(self) -> bool:
        """True for a directory, which alone has children."""
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        """st_size of a regular file or symbolic link; 0 for the rest."""
        if self.content is not None:
            return self.content.size
        return len(self.target)


def directory(mode: int = 0o755, *, mtime_ns: int = 0) -> Node:
    """Return an empty directory that belongs to root."""
    return Node(stat.S_IFDIR | mode, mtime_ns=mtime_ns)


@dataclass(slots=True)
class Tree:
    """A root directory and everything below it."""

    root: Node = field(default_factory=directory)

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Yield every path below the root with its node, parents first, names in byte order.

        A hard link yields its node once per path.
        """
        stack: list[tuple[bytes, Node]] = [(b"", self.root)]
        while stack:
            path, node = stack.pop()
            if path:
                yield path, node
            if node.children:
                prefix = path + b"/" if path else b""
                names = sorted(node.children, reverse=True)
                stack.extend((prefix + name, node.children[name]) for name in names)

    def get(self, path: bytes) -> Node | None:
        """Return the node at ``path``, following no symbolic link, or None."""
        node = self.root
        for name in path.split(b"/") if path else ():
            if name not in node.children:
                return None
            node = node.children[name]
        return node
