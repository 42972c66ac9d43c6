"""Layers become one tree: entries replace what lies below, whiteouts remove it.

Rules of the OCI image specification (layer.md): ``.wh.NAME`` removes NAME of the layers below,
``.wh..wh..opq`` all of a directory's entries below, wherever in the layer they stand, and neither
touches what the same layer brings. A directory over a directory keeps the entries. A layer names
every other path once; a second time is refused, because which one counts would be a guess.

A path whose parent is a symbolic link of a layer below goes where the link points, inside the
root, as container engines do it. Parents that no layer names are made: root's, mode 0755.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterable

from image_builder.errors import LimitExceeded, SourceInvalid, show
from image_builder.limits import Limits
from image_builder.tar_reader import HOSTILE_HINT, TarMember, safe_path
from image_builder.tree import Node, Tree, directory

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_PRIVATE = b".wh..wh."
"""Other names of this kind are aufs's own bookkeeping and no part of the image."""
MAX_LINKS = 40
"""Symbolic links followed for one path, as in the kernel (path_resolution(7))."""

_Entry = tuple[bytes, TarMember]


class LayerMerge:
    """Builds a tree out of layers, lowest first. Use from one thread."""

    def __init__(self, limits: Limits) -> None:
        self.tree = Tree()
        self._limits = limits
        self._entries = 0
        self._devices = 0

    def apply(self, members: Iterable[TarMember], archive: str) -> None:
        """Put one layer over the tree. Raises SourceInvalid or LimitExceeded.

        After a failure the tree is neither the old nor the new one: give it up.
        """
        layer = _Layer(self.tree, archive, self._limits)
        entries, whiteouts = self._sorted_out(members, archive)
        for path in whiteouts:
            layer.white_out(path)
        for path, member in entries:
            layer.place(path, member)

    def _sorted_out(
        self, members: Iterable[TarMember], archive: str
    ) -> tuple[list[_Entry], list[bytes]]:
        entries: list[_Entry] = []
        whiteouts: list[bytes] = []
        for member in members:
            self._entries += 1
            if self._entries > self._limits.entries:
                raise LimitExceeded(archive, "the number of entries", self._limits.entries)
            self._devices += stat.S_ISCHR(member.mode) or stat.S_ISBLK(member.mode)
            if self._devices > self._limits.devices:
                raise LimitExceeded(archive, "the number of device nodes", self._limits.devices)
            path = safe_path(member.name, archive, self._limits)
            if path.rpartition(b"/")[2].startswith(WHITEOUT):
                whiteouts.append(path)
            else:
                entries.append((path, member))
        return entries, whiteouts


class _Layer:
    """One layer being put over the tree; remembers what it brought itself."""

    def __init__(self, tree: Tree, archive: str, limits: Limits) -> None:
        self._root = tree.root
        self._archive = archive
        self._limits = limits
        # Both keep their directories alive, so that no id is used again.
        self._brought: dict[tuple[int, bytes], Node] = {}
        self._parents: dict[int, Node] = {}
        self._last: tuple[bytes, Node] | None = None

    def white_out(self, path: bytes) -> None:
        """Remove what ``path``, the name of a whiteout, says."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self._directory(parent_path)
        if parent is None:
            return
        if name == OPAQUE:
            parent.children.clear()
        elif name == WHITEOUT:
            raise SourceInvalid(self._archive, f"whiteout without a name: {show(path)}")
        elif not name.startswith(AUFS_PRIVATE):
            parent.children.pop(name.removeprefix(WHITEOUT), None)

    def place(self, path: bytes, member: TarMember) -> None:
        """Put one entry into the tree."""
        if not path:
            self._place_root(member)
            return
        parent_path, _, name = path.rpartition(b"/")
        parent = self._parent(parent_path)
        existing = parent.children.get(name)
        is_directory = stat.S_ISDIR(member.mode)
        self._check_replaceable(path, parent, existing, is_directory)
        if existing is not None and existing.is_directory and is_directory:
            _take_attributes(existing, member)
        elif member.is_hard_link:
            parent.children[name] = self._link_target(path, member)
        else:
            parent.children[name] = self._node(path, member)
        self._brought[id(parent), name] = parent
        if not stat.S_ISREG(member.mode):
            self._last = None

    def _place_root(self, member: TarMember) -> None:
        if not stat.S_ISDIR(member.mode):
            raise SourceInvalid(self._archive, "the root is not a directory", HOSTILE_HINT)
        _take_attributes(self._root, member)

    def _check_replaceable(
        self, path: bytes, parent: Node, existing: Node | None, is_directory: bool
    ) -> None:
        if existing is None or (existing.is_directory and is_directory):
            return
        if (id(parent), _name_of(path)) in self._brought or id(existing) in self._parents:
            raise SourceInvalid(
                self._archive, f"two entries for {show(path)} in one layer", HOSTILE_HINT
            )

    def _node(self, path: bytes, member: TarMember) -> Node:
        node = Node(
            member.mode, member.uid, member.gid, member.mtime_ns, member.xattrs, member.content
        )
        if stat.S_ISLNK(member.mode):
            node.target = member.link
        elif stat.S_ISCHR(member.mode) or stat.S_ISBLK(member.mode):
            major, minor = node.device = member.device
            if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
                raise SourceInvalid(
                    self._archive,
                    f"{show(path)} is a device {major}:{minor}, which Linux doesn't have",
                    HOSTILE_HINT,
                )
        return node

    def _link_target(self, path: bytes, member: TarMember) -> Node:
        target_path = safe_path(member.link, self._archive, self._limits)
        parent_path, _, name = target_path.rpartition(b"/")
        parent = self._directory(parent_path)
        target = parent.children.get(name) if parent is not None else None
        if target is None or target.is_directory:
            what = "a directory" if target is not None else "missing"
            raise SourceInvalid(
                self._archive,
                f"hard link {show(path)}: its target {show(member.link)} is {what}",
                HOSTILE_HINT,
            )
        return target

    def _parent(self, path: bytes) -> Node:
        """Return the directory ``path``, made if needed. Neighbours in a layer share it."""
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        above = self._resolve(path, create=True)
        self._parents.update((id(node), node) for node in above)
        self._last = (path, above[-1])
        return above[-1]

    def _directory(self, path: bytes) -> Node | None:
        """Return the directory at ``path``, or None."""
        above = self._resolve(path, create=False)
        return above[-1] if above else None

    def _resolve(self, path: bytes, *, create: bool) -> list[Node]:
        """Return the directories from the root to ``path``, following links within the root.

        Without ``create`` the list is empty if there is no such directory.
        """
        above = [self._root]
        left = deque(path.split(b"/"))
        links = 0
        while left:
            name = left.popleft()
            if name in (b"", b".", b".."):
                above = (above[:-1] or above) if name == b".." else above
                continue
            child = above[-1].children.get(name)
            if child is None and create:
                child = above[-1].children[name] = directory()
            if child is not None and stat.S_ISLNK(child.mode):
                links += 1
                if links > MAX_LINKS:
                    raise SourceInvalid(self._archive, f"too many links in {show(path)}")
                above = [self._root] if child.target.startswith(b"/") else above
                left.extendleft(reversed(child.target.split(b"/")))
            elif child is not None and child.is_directory:
                above = [*above, child]
            elif create:
                raise SourceInvalid(
                    self._archive, f"an entry below {show(path)}, where {show(name)} is a file"
                )
            else:
                return []
        return above


def _name_of(path: bytes) -> bytes:
    """Return the last component."""
    return path.rpartition(b"/")[2]


def _take_attributes(node: Node, member: TarMember) -> None:
    node.mode = member.mode
    node.uid, node.gid = member.uid, member.gid
    node.mtime_ns = member.mtime_ns
    node.xattrs = member.xattrs
