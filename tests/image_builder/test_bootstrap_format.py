"""The bootstrap's bytes are those of docs/formats/bootstrap.md, and limits are refused by name."""

import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE, Span
from image_builder.bootstrap import BootstrapDevice, BootstrapDraft, write_bootstrap
from image_builder.erofs_directory import directory_size, encode_directory, split_names
from image_builder.errors import NotRepresentable
from image_builder.placement import MAX_INDEXES, place
from image_builder.tree import BytesContent, Node, Tree, directory

GOLDEN = Path(__file__).parents[1] / "golden" / "bootstrap.v1"


def file(content, **fields):
    return Node(stat.S_IFREG | 0o644, content=BytesContent(content), **fields)


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


def test_equal_trees_give_equal_bytes_whatever_made_them():
    images = set()
    for _ in range(2):
        tree, placements = small_tree()
        if images:
            tree.root.children = dict(reversed(tree.root.children.items()))
        images.add(bytes(write_bootstrap(tree, placements, [BootstrapDevice("d" * 64, 11)])))
    assert len(images) == 1
