"""Layers merge as the OCI specification says; a plain dict model says the same."""

import stat
import tarfile
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.archive_file import open_archive
from image_builder.errors import LimitExceeded, SourceInvalid
from image_builder.layer_merge import LayerMerge
from image_builder.limits import Limits
from image_builder.tar_reader import TarMember, read_members
from image_builder.tree import NO_XATTRS
from tests.image_builder.archives import directory, hard_link, layer, link, member


def merged(tmp_path, *layers, limits=Limits()):  # noqa: B008 (a value)
    merge = LayerMerge(limits)
    with ExitStack() as stack:
        for number, content in enumerate(layers):
            path = tmp_path / f"{number}.tar"
            path.write_bytes(content)
            archive = open_archive(str(path), stack)
            merge.apply(read_members(archive, Limits(), end_required=True), archive.name)
    return merge.tree


def paths(tree):
    return [path.decode() for path, _node in tree.walk()]


def test_a_whiteout_removes_a_file_below_and_leaves_no_trace(tmp_path):
    tree = merged(
        tmp_path,
        layer(directory("d"), member("d/gone"), member("d/kept")),
        layer(member("d/.wh.gone")),
    )
    assert paths(tree) == ["d", "d/kept"]


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_hides_what_is_below_but_not_its_own_layer(tmp_path, first):
    entries = [member("d/.wh..wh..opq"), member("d/new")]
    tree = merged(
        tmp_path,
        layer(directory("d"), member("d/old"), directory("d/sub"), member("d/sub/old")),
        layer(*(entries if first else reversed(entries))),
    )
    assert paths(tree) == ["d", "d/new"]


def test_a_file_may_return_in_the_layer_that_removes_it(tmp_path):
    tree = merged(
        tmp_path,
        layer(member("a", content=b"old")),
        layer(member("a", content=b"newer"), member(".wh.a")),
    )
    assert tree.get(b"a").size == 5


def test_a_directory_over_a_directory_takes_attributes_and_keeps_entries(tmp_path):
    tree = merged(
        tmp_path,
        layer(directory("d", mode=0o755), member("d/a")),
        layer(directory("d", mode=0o700, uid=7)),
    )
    node = tree.get(b"d")
    assert (stat.S_IMODE(node.mode), node.uid, list(node.children)) == (0o700, 7, [b"a"])


def test_a_file_over_a_directory_and_back_replaces_it_whole(tmp_path):
    lower = layer(directory("d"), member("d/a"))
    assert paths(merged(tmp_path, lower, layer(member("d")))) == ["d"]
    assert paths(merged(tmp_path, layer(member("d")), lower)) == ["d", "d/a"]


def test_a_parent_that_is_a_link_of_a_lower_layer_is_followed_inside_the_root(tmp_path):
    tree = merged(
        tmp_path,
        layer(directory("usr"), directory("usr/lib"), link("lib", "/../../usr/lib")),
        layer(member("lib/libc.so", content=b"c")),
    )
    assert tree.get(b"usr/lib/libc.so") is not None


def test_hard_links_are_one_inode(tmp_path):
    tree = merged(tmp_path, layer(member("a", content=b"x")), layer(hard_link("b", "a")))
    assert tree.get(b"a") is tree.get(b"b")


def test_a_bomb_of_device_nodes_is_refused(tmp_path):
    nodes = [member(f"dev/n{n}", kind=tarfile.BLKTYPE, devmajor=8, devminor=n) for n in range(6)]
    assert len(merged(tmp_path, layer(*nodes), limits=Limits(devices=6)).get(b"dev").children) == 6
    with pytest.raises(LimitExceeded, match="number of device nodes"):
        merged(tmp_path, layer(*nodes), limits=Limits(devices=5))


def test_missing_parents_belong_to_root(tmp_path):
    tree = merged(tmp_path, layer(member("a/b/c")))
    node = tree.get(b"a/b")
    assert (node.mode, node.uid, node.mtime_ns) == (stat.S_IFDIR | 0o755, 0, 0)


HOSTILE = {
    "an absolute path": layer(member("/etc/passwd")),
    "'..' in its path": layer(member("a/../../etc/passwd")),
    "is missing": layer(hard_link("a", "nowhere")),
    "is a directory": layer(directory("d"), hard_link("a", "d")),
    "two entries": layer(member("a"), member("a")),
    "where c is a file": layer(member("c"), member("c/d")),
    "too many links": layer(link("l", "l"), member("l/x")),
    "which Linux doesn't have": layer(member("n", kind=tarfile.CHRTYPE, devmajor=5000)),
    "the root is not a directory": layer(member("./", kind=tarfile.SYMTYPE, linkname="x")),
}


@pytest.mark.parametrize("problem", HOSTILE)
def test_a_hostile_layer_is_refused_with_its_reason(tmp_path, problem):
    with pytest.raises(SourceInvalid, match=problem):
        merged(tmp_path, HOSTILE[problem])


@pytest.mark.parametrize("target", ["../outside", "/etc/shadow", "a/../../x"])
def test_a_hard_link_that_points_outside_is_refused(tmp_path, target):
    with pytest.raises(SourceInvalid, match=r"absolute path|'\.\.'"):
        merged(tmp_path, layer(hard_link("a", target)))


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.tuples(st.sampled_from(["file", "directory", "whiteout", "opaque"]), PATHS)


def entry(kind, path):
    if kind == "whiteout":
        parent, _, name = path.rpartition("/")
        return TarMember(
            f"{parent}/.wh.{name}".lstrip("/").encode(), stat.S_IFREG, 0, 0, 0, b"", (0, 0),
            NO_XATTRS, None,
        )  # fmt: skip
    if kind == "opaque":
        path = f"{path}/.wh..wh..opq"
    mode = stat.S_IFDIR if kind == "directory" else stat.S_IFREG
    return TarMember(path.encode(), mode, 0, 0, 0, b"", (0, 0), NO_XATTRS, None)


class Contradiction(Exception):
    """The layer says two things of one path."""


def model(below, entries):
    """Paths -> is it a directory, of a layer over ``below``."""
    found = dict(below)
    for kind, path in entries:
        parents = [path[:at] for at in range(len(path)) if path[at] == "/"]
        if kind in ("whiteout", "opaque") and all(found.get(p) for p in parents):
            if kind == "whiteout":
                found.pop(path, None)
            if kind == "whiteout" or found.get(path):
                found = {p: d for p, d in found.items() if not p.startswith(f"{path}/")}
    own = {}
    for kind, path in entries:
        if kind not in ("file", "directory"):
            continue
        for parent in [path[:at] for at in range(len(path)) if path[at] == "/"]:
            if not found.get(parent, True):
                raise Contradiction
            found[parent] = True
            own.setdefault(parent, "parent")
        is_directory = kind == "directory"
        if path in found and not (found[path] and is_directory):
            if path in own:
                raise Contradiction
            found = {p: d for p, d in found.items() if not p.startswith(f"{path}/")}
        found[path] = is_directory
        own[path] = kind
    return found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.lists(ENTRIES, max_size=6), min_size=1, max_size=3))
def test_merging_agrees_with_a_dict_model(layers):
    merge = LayerMerge(Limits())
    expected = {}
    for entries in layers:
        members = [entry(kind, path) for kind, path in entries]
        try:
            expected = model(expected, entries)
        except Contradiction:
            with pytest.raises(SourceInvalid):
                merge.apply(members, "layer")
            return
        merge.apply(members, "layer")
        assert {p.decode(): n.is_directory for p, n in merge.tree.walk()} == expected
