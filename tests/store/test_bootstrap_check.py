"""A bootstrap that was tampered with is refused, or harmless: hostile bytes never reach the kernel.

Mutants carry a right checksum and are otherwise any change at all. What is accepted of them, the
tools and the kernel read to the end.
"""

import random
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.run import run
from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.mounts import unmount
from hotstart.store.bootstrap_check import check_bootstrap_image
from hotstart.store.bootstrap_head import BLOCK, BootstrapInvalid, checksum, parse_head
from hotstart.store.layers import ManifestInvalid, bootstrap_descriptor, check_bootstrap
from hotstart.store.zstd_frame import compress
from image_builder.build import build
from tests.fakes.built_images import bring_home
from tests.fakes.memory_store import memory_store
from tests.image_builder.rich_tree import make_rich_tree

GOLDEN = (Path(__file__).parents[1] / "golden" / "bootstrap.v1").read_bytes()
ROOT = parse_head(GOLDEN).root_nid * 32


def sealed(image):
    """Give a changed image the checksum that it should have."""
    image = bytearray(image)
    struct.pack_into("<I", image, 1028, checksum(bytes(image)))
    return bytes(image)


def changed(offset, content, image=GOLDEN):
    return sealed(image[:offset] + content + image[offset + len(content) :])


def verdict(image):
    try:
        check_bootstrap_image(image)
    except BootstrapInvalid:
        return False
    return True


def mutants(image, count, seed):
    """Images with a few bytes of their used part changed: to any value, or by one bit."""
    source = random.Random(seed)
    used = [at for at in range(1024, min(len(image), 6 * BLOCK)) if image[at]]
    for _ in range(count):
        mutant = bytearray(image)
        for _ in range(source.randrange(1, 4)):
            at = min(len(image) - 1, source.choice(used) + source.randrange(-4, 5))
            mutant[at] = source.choice((mutant[at] ^ 1 << source.randrange(8), 0, 255))
        yield sealed(mutant)


def test_what_the_builder_writes_is_accepted():
    assert [blocks for _, blocks in check_bootstrap_image(GOLDEN).devices] == [11]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_is_refused_by_name_or_accepted_and_nothing_else(data):
    mutant = bytearray(GOLDEN)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(1024, len(mutant) - 8))
        width = data.draw(st.sampled_from("BHIQ"))
        high = (1 << 8 * struct.calcsize(width)) - 1
        value = data.draw(st.sampled_from((0, 1, high, high >> 1)) | st.integers(0, high))
        struct.pack_into(f"<{width}", mutant, at, value)
    with suppress(BootstrapInvalid):
        check_bootstrap_image(sealed(mutant))
        assert parse_head(sealed(mutant)).root_nid * 32 < len(mutant)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2 * BLOCK), st.integers(0, len(GOLDEN)))
def test_noise_and_cut_images_are_refused_by_name(noise, end):
    assert not verdict(noise)
    assert end == len(GOLDEN) or not verdict(GOLDEN[:end])


@pytest.mark.parametrize(
    ("what", "image"),
    [
        ("checksum", GOLDEN[:2000] + b"x" + GOLDEN[2001:]),
        ("an unknown feature", changed(1024 + 80, b"\x0d")),
        ("a block size", changed(1024 + 12, b"\x0d")),
        ("more blocks than there are", changed(1024 + 36, b"\xff")),
        ("more devices than the slots", changed(1024 + 86, b"\xff\xff")),
        ("a root far outside", changed(1024 + 14, b"\xff\xff")),
        ("a root in the superblock", changed(1024 + 14, b"\x20\x00")),
        ("more inodes than are reached", changed(1024 + 16, b"\x63")),
        ("a layout of compressed data", changed(ROOT, bytes([GOLDEN[ROOT] & 1 | 2]))),
        ("a root that is a file", changed(ROOT + 4, b"\xa4\x81")),
    ],
)
def test_this_is_refused(what, image):
    assert image != GOLDEN
    assert not verdict(image), what


def test_a_directory_that_contains_itself_is_refused():
    """Each child's nid in turn is made that of the root: a cycle, whatever its type."""
    root_nid = struct.pack("<Q", parse_head(GOLDEN).root_nid)
    refused = 0
    for at in range(ROOT, len(GOLDEN) - 12, 4):
        nid, _, kind, reserved = struct.unpack_from("<QHBB", GOLDEN, at)
        if 36 <= nid < len(GOLDEN) // 32 and 1 <= kind <= 7 and reserved == 0:
            mutant = changed(at, root_nid)
            if mutant != GOLDEN:
                assert not verdict(mutant)
                refused += 1
    assert refused > 3


def test_a_bootstrap_too_large_to_be_checked_is_refused_before_it_is_fetched():
    descriptor = bootstrap_descriptor(compress(b"x"), b"x")
    annotations = {**descriptor.annotations}
    key = next(key for key, value in annotations.items() if value == "1")
    annotations[key] = str(2 << 30)
    with pytest.raises(ManifestInvalid, match="too large"):
        check_bootstrap(
            type(descriptor)(descriptor.media_type, descriptor.digest, descriptor.size, annotations)
        )


WALK = 'find "$1" -ls; find "$1" -type l -exec readlink {} +; getfattr -Rhd -m - "$1"; true'


@pytest.mark.kernel
def test_what_is_accepted_of_mutants_the_kernel_reads_to_the_end(tmp_path):
    store = memory_store()
    source = make_rich_tree(tmp_path / "tree")
    image = bring_home(build(str(source), store, reference="rich:1").manifest, store, tmp_path)
    good = image.bootstrap.read_bytes()
    assert verdict(good)
    accepted = [mutant for mutant in mutants(good, 150, seed=3) if verdict(mutant)]
    assert 5 < len(accepted) < 140
    target, place = tmp_path / "mnt", tmp_path / "mutant.erofs"
    target.mkdir()
    for mutant in accepted[:8]:
        place.write_bytes(mutant)
        run(["fsck.erofs", f"--device={image.devices[0]}", str(place)], check=False, timeout_s=20)
        mount_erofs(place, target, image.devices, nosuid=True, nodev=True)
        try:
            run(["sh", "-c", WALK, "sh", str(target)], timeout_s=20)
        finally:
            unmount(target)
