"""The bootstrap's bytes are those of docs/formats/bootstrap.md, and limits are refused by name."""

import contextlib
import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE, Span
from hotstart.store.bootstrap_check import check_bootstrap_image
from image_builder import bootstrap
from image_builder.bootstrap import BootstrapDevice, BootstrapDraft, fits_inline, write_bootstrap
from image_builder.directory import FileContent
from image_builder.erofs_directory import directory_size, encode_directory, split_names
from image_builder.errors import NotRepresentable, TreeTooLarge
from image_builder.placement import MAX_INDEXES, place
from image_builder.tree import BytesContent, Node, Tree, directory

GOLDEN = Path(__file__).parents[1] / "golden" / "bootstrap.v1"


def file(content, **fields):
    return Node(stat.S_IFREG | 0o644, content=BytesContent(content), **fields)


def link(target, **fields):
    return Node(stat.S_IFLNK | 0o777, target=target, **fields)


def small_tree():
    tree = Tree(directory(mtime_ns=1_700_000_000_000_000_000))
    children = tree.root.children
    children[b"etc"] = directory(0o755, mtime_ns=-1)
    children[b"etc"].children[b"name"] = file(b"hotstart\n", xattrs={b"user.a": b"1"})
    children[b"data"] = file(bytes(range(256)) * 40, uid=70_000, mtime_ns=5_000_000_000_000_000_001)
    children[b"same"] = children[b"data"]
    children[b"link"] = Node(stat.S_IFLNK | 0o777, target=b"etc/name")
    children[b"null"] = Node(stat.S_IFCHR | 0o666, device=(1, 3))
    placed = place(b"data", children[b"data"], children[b"data"].content, dense=False)
    placed.device_offset = 8 * PAGE
    return tree, {id(placed.node): placed}


def test_a_small_tree_gives_the_golden_bytes():
    tree, placements = small_tree()
    image = bytes(write_bootstrap(tree, placements, [BootstrapDevice("d" * 64, 11)]))
    assert image == GOLDEN.read_bytes()


def test_a_draft_needs_the_place_of_data_only_to_be_finished():
    tree, placements = small_tree()
    (placed,) = placements.values()
    placed.device_offset = -1
    draft = BootstrapDraft(tree, placements, device_count=1)
    placed.device_offset = 8 * PAGE
    assert draft.finish([BootstrapDevice("d" * 64, 11)]) == GOLDEN.read_bytes()


def test_the_superblock_asks_for_two_features_only():
    tree, placements = small_tree()
    image = write_bootstrap(tree, placements, [BootstrapDevice("d" * 64, 11)])
    magic, _sum, compat = struct.unpack_from("<III", image, 1024)
    (incompat,) = struct.unpack_from("<I", image, 1024 + 80)
    assert (magic, compat, incompat) == (0xE0F5E1E2, 0x3, 0xC)


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (file(b"", xattrs={b"system.other": b""}), "can't be kept"),
        (file(b"", xattrs={b"user.a": bytes(65536)}), "has 65536 bytes"),
        (file(b"", xattrs={b"user." + b"n" * 256: b""}), "can't be kept"),
        (
            file(b"", xattrs={b"user.%d" % n: n.to_bytes(4) * 16000 for n in range(5)}),
            "bytes of extended attributes",
        ),
        (file(b"", mtime_ns=(1 << 63) * 10**9), "64 bits of seconds"),
        (link(b""), "path of 0 bytes"),
        (link(b"t" * 4096), "path of 4096 bytes"),
        (link(b"a\0b"), "a NUL in it"),
        (
            Node(stat.S_IFREG | 0o644, content=FileContent(b"", (0, 0, (1 << 44) + 1, 0, 0), True)),
            "above 16 TiB",
        ),
    ],
)
def test_what_erofs_cannot_hold_is_refused_with_the_path(node, problem):
    tree = Tree()
    tree.root.children[b"odd"] = node
    with pytest.raises(NotRepresentable, match=f"odd: .*{problem}"):
        write_bootstrap(tree, {}, [])


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"n" * 256])
def test_impossible_names_are_refused(name):
    tree = Tree()
    tree.root.children[name] = file(b"")
    with pytest.raises(NotRepresentable, match="a name of"):
        write_bootstrap(tree, {}, [])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sets(
        st.binary(min_size=1, max_size=255).filter(lambda n: not set(b"/\0") & set(n)), max_size=200
    )
)
def test_directory_blocks_stand_for_themselves(names):
    entries = [(name, number, 1) for number, name in enumerate(sorted({*names, b".", b".."}))]
    ordered = [name for name, _nid, _type in entries]
    counts = split_names(ordered)
    content = encode_directory(entries, counts)
    assert len(content) == directory_size(ordered, counts)
    found = [e for at in range(0, len(content), PAGE) for e in parse(content[at : at + PAGE])]
    assert found == entries


def parse(block):
    """Read one directory block as the kernel does."""
    count = struct.unpack_from("<H", block, 8)[0] // 12
    heads = [struct.unpack_from("<QHBB", block, 12 * n) for n in range(count)]
    ends = [head[1] for head in heads[1:]] + [len(block)]
    for (nid, start, kind, _), end in zip(heads, ends, strict=True):
        # The last name of a block ends with the block or at the first zero (fs/erofs/dir.c).
        yield block[start:end].split(b"\0", 1)[0], nid, kind


class Holes:
    """A file of which only some spans hold data."""

    def __init__(self, size, spans):
        self.size, self.spans = size, spans

    def data_spans(self):
        return self.spans

    def read_into(self, offset, buffer):
        for at in range(len(buffer)):
            inside = any(s.offset <= offset + at < s.end for s in self.spans)
            buffer[at] = 1 + (offset + at) % 255 if inside else 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 60_000), st.lists(st.tuples(st.integers(0, 59_999), st.integers(1, 9000))))
def test_a_sparse_file_read_through_its_indexes_is_the_file(size, parts):
    spans, end = [], 0
    for offset, length in sorted(parts):
        start = max(offset, end + 1)
        if start < size:
            end = min(start + length, size)
            spans.append(Span(start, end - start))
    content = Holes(size, spans)
    placed = place(b"f", file(b"x"), content, dense=False)
    placed.device_offset = 0
    device = bytearray(placed.extent_size)
    placed.read_extent(0, memoryview(device))
    chunk = PAGE << placed.chunk_bits
    through = b"".join(
        bytes(chunk) if at is None else bytes(device[at : at + chunk]).ljust(chunk, b"\0")
        for at in placed.indexes()
    )[:size]
    expected = bytearray(size)
    content.read_into(0, memoryview(expected))
    assert through.ljust(size, b"\0") == bytes(expected)


def test_a_file_with_a_bomb_of_holes_is_refused():
    far = [Span(at << 33, 1) for at in range(1 << 10)]
    with pytest.raises(NotRepresentable, match="too many small parts"):
        place(b"f", file(b"x"), Holes((1 << 43) + 1, [Span(4096, 1), *far[1:]]), dense=False)


def test_indexes_of_a_sparse_file_stay_within_their_limit():
    placed = place(b"f", file(b"x"), Holes(1 << 40, [Span(4096, 1)]), dense=False)
    placed.device_offset = 0
    assert len(placed.indexes()) <= MAX_INDEXES


@pytest.mark.parametrize(("name", "limit"), [("MAX_INODES", 3), ("MAX_IMAGE_BYTES", 4096)])
def test_a_tree_with_more_metadata_than_can_be_mounted_is_refused(monkeypatch, name, limit):
    tree = Tree()
    tree.root.children.update((b"%d" % number, link(b"t" * 4000)) for number in range(3))
    write_bootstrap(tree, {}, [])
    monkeypatch.setattr(bootstrap, name, limit)
    with pytest.raises(TreeTooLarge, match="4 files takes"):
        write_bootstrap(tree, {}, [])


_NAMES = st.binary(min_size=1, max_size=255).filter(lambda n: not set(b"/\0") & set(n))
_NODES = st.builds(
    lambda node, xattrs, uid, mtime_ns: replace(node, xattrs=xattrs, uid=uid, mtime_ns=mtime_ns),
    st.one_of(
        st.binary(max_size=2048).map(file),
        st.binary(max_size=9).map(link),
        st.integers(1, 4100).map(lambda size: link(b"t" * size)),
        st.sampled_from((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)).map(Node),
    ),
    st.dictionaries(
        st.sampled_from((b"user.a", b"security.capability", b"system.posix_acl_access")),
        st.binary(max_size=300) | st.integers(0, 9000).map(bytes),
    ),
    st.integers(0, (1 << 32) - 2),
    st.integers(-(1 << 64), 1 << 64),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(_NAMES, _NODES, max_size=12))
def test_what_is_written_can_be_mounted(nodes):
    """It is refused, or accepted by the check that stands before every mount."""
    tree = Tree()
    below = tree.root.children[b"directory"] = directory()
    below.children.update({**nodes, b"again": file(b"hard link")})
    tree.root.children[b"again"] = below.children[b"again"]
    files = [node for _, node in tree.walk() if node.content and node.size]
    placements = {
        id(node): place(b"", node, node.content, dense=True)
        for node in files
        if not fits_inline(node)
    }
    for placement in placements.values():
        placement.device_offset = 0
    with contextlib.suppress(NotRepresentable):
        image = write_bootstrap(tree, placements, [BootstrapDevice("d" * 64, 1)])
        check_bootstrap_image(bytes(image))


def test_equal_trees_give_equal_bytes_whatever_made_them():
    images = set()
    for _ in range(2):
        tree, placements = small_tree()
        if images:
            tree.root.children = dict(reversed(tree.root.children.items()))
        images.add(bytes(write_bootstrap(tree, placements, [BootstrapDevice("d" * 64, 11)])))
    assert len(images) == 1
