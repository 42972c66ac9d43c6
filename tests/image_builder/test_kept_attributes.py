"""What goes into an image comes out of the kernel's own EROFS, attribute by attribute."""

import os
import random
import shutil
import stat

import pytest

from hotstart.core.run import run
from hotstart.core.span import PAGE, Span, pages_of
from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.mounts import unmount
from image_builder.bootstrap import BootstrapDevice, write_bootstrap
from image_builder.build import build, build_tree
from image_builder.directory import scan
from image_builder.options import BuildOptions
from image_builder.placement import place
from image_builder.tree import Node, Tree
from tests.fakes.built_images import bring_home, described, mounted
from tests.fakes.memory_store import memory_store
from tests.image_builder.rich_tree import make_rich_tree

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    return make_rich_tree(tmp_path_factory.mktemp("rich") / "tree")


def test_a_mounted_image_equals_its_directory(rich, tmp_path):
    store = memory_store()
    result = build(str(rich), store, reference="rich:1")
    with mounted(result.manifest, store, tmp_path / "image") as root:
        assert described(root) == described(rich)


def test_holes_stay_holes_in_the_device(rich):
    result = build(str(rich), memory_store(), reference="rich:1")
    assert result.manifest.devices[0].size_bytes < 20 << 20


def test_erofs_tools_find_nothing_wrong(rich, tmp_path):
    store = memory_store()
    image = bring_home(build(str(rich), store, reference="rich:1").manifest, store, tmp_path)
    checked = run(["fsck.erofs", "-d3", f"--device={image.devices[0]}", str(image.bootstrap)])
    assert b"No errors found" in checked.stdout + checked.stderr
    shown = run(["dump.erofs", "-s", f"--device={image.devices[0]}", str(image.bootstrap)]).text
    assert "device_table" in shown
    assert "chunked_file" in shown


def test_a_directory_of_100000_entries_is_found_whole(tmp_path):
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    names = {f"f{number}" for number in range(100_000)}
    descriptor = os.open(source / "d", os.O_RDONLY)
    try:
        first = os.open("f0", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
        os.write(first, b"first")
        os.close(first)
        for name in names - {"f0"}:
            number = int(name[1:])
            target = "f0" if number < 30_000 else None
            if target:
                os.link(target, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
            else:
                os.mknod(name, 0o100600, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    store = memory_store()
    result = build(str(source), store, reference="big:1")
    with mounted(result.manifest, store, tmp_path / "image") as root:
        assert set(os.listdir(root / "d")) == names
        assert all(os.path.lexists(root / "d" / f"f{n}") for n in range(0, 100_000, 997))
        assert os.stat(root / "d/f0").st_nlink == 30_000


def test_overlay_bookkeeping_is_left_out_and_its_meaning_kept(tmp_path):
    upper = tmp_path / "upper"
    (upper / "opaque").mkdir(parents=True)
    for name, value in (("opaque", b"y"), ("origin", b"\0\xfb"), ("impure", b"y"), ("uuid", b"u")):
        os.setxattr(upper / "opaque", f"trusted.overlay.{name}", value)
    os.setxattr(upper / "opaque", "trusted.overlay.redirect", b"/elsewhere")
    store = memory_store()
    built = build_tree(scan(os.fsencode(upper)).tree, store)
    with mounted(built, store, tmp_path / "image") as root:
        assert set(os.listxattr(root / "opaque")) == {
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
        }


def test_an_asked_for_file_is_one_extent_without_holes(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "pages-1.img", "wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"\x07" * 8192, 65536)
    (source / "other").write_bytes(b"o" * 5000)
    store = memory_store()
    options = BuildOptions(extents_for=(b"pages-1.img",), small_chunks_for=(b"pages-1.img",))
    built = build_tree(scan(os.fsencode(source)).tree, store, options=options)
    image = bring_home(built, store, tmp_path / "image")
    extent = built.extents[b"pages-1.img"]
    assert extent.length == 1 << 20
    device = image.devices[0].read_bytes()
    assert device[extent.offset : extent.end] == (source / "pages-1.img").read_bytes()


def test_equal_large_files_share_their_extent(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(random.Random(2).randbytes(1 << 20))
    shutil.copy(source / "a", source / "b")
    store = memory_store()
    built = build_tree(
        scan(os.fsencode(source)).tree, store, options=BuildOptions(extents_for=(b"a", b"b"))
    )
    assert built.extents[b"a"] == built.extents[b"b"]
    assert built.devices[0].size_bytes == 1 << 20
    with mounted(built, store, tmp_path / "image") as root:
        assert (root / "b").read_bytes() == (source / "b").read_bytes()


def test_a_tree_without_data_needs_no_device(tmp_path):
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "etc/name").write_bytes(b"inline")
    with open(source / "hole", "wb") as file:
        file.truncate(1 << 30)
    store = memory_store()
    built = build_tree(scan(os.fsencode(source)).tree, store)
    assert built.devices == ()
    with mounted(built, store, tmp_path / "image") as root:
        assert described(root) == described(source)


class Endless:
    """A dense file of any size whose bytes nobody reads here."""

    def __init__(self, size):
        self.size = size

    def data_spans(self):
        return (Span(0, self.size),)

    def read_into(self, offset, buffer):
        raise AssertionError("only its place is asked for")


@pytest.mark.parametrize("size", [(6 << 30) + 1, (3 << 40) + 5])
def test_a_dense_file_beyond_4_gib_is_one_chunk_that_the_kernel_follows(tmp_path, size):
    tree = Tree()
    node = tree.root.children[b"weights"] = Node(stat.S_IFREG | 0o644, content=Endless(size))
    placed = place(b"weights", node, node.content, dense=False)
    placed.device_offset = 16 * PAGE
    slot = BootstrapDevice("d", 16 + pages_of(size))
    bootstrap, device, target = tmp_path / "boot", tmp_path / "dev", tmp_path / "mnt"
    bootstrap.write_bytes(write_bootstrap(tree, {id(node): placed}, [slot]))
    with device.open("wb") as file:
        file.truncate(slot.blocks * PAGE)
        for at in (0, (4 << 30) + 123, size - 3):
            os.pwrite(file.fileno(), b"abc", 16 * PAGE + at)
    assert placed.indexes() == [16 * PAGE]
    target.mkdir()
    mount_erofs(bootstrap, target, [device])
    try:
        with (target / "weights").open("rb") as file:
            assert os.fstat(file.fileno()).st_size == size
            for at in (0, (4 << 30) + 123, size - 3):
                assert os.pread(file.fileno(), 3, at) == b"abc"
    finally:
        unmount(target)
