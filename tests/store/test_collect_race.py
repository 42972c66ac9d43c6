"""Builders, captures' store side, removals and collectors at once on one store, without a grace.

Packs become mostly dead all the time and are rewritten under readers and builders.
"""

import itertools
import os
import random
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from hotstart.core.digest import Digest
from hotstart.core.errors import Conflict
from hotstart.store import media_types
from hotstart.store.blob_store import BlobNotFound
from hotstart.store.collect import Collector, CollectorRunning
from hotstart.store.descriptor import Descriptor
from hotstart.store.leased import leased
from hotstart.store.manifest import parse_manifest
from hotstart.store.publishing import current
from hotstart.store.reach import relocated_pack
from hotstart.store.references import ReferenceName, ReferenceNotFound
from hotstart.store.relocating import find_relocation
from hotstart.store.stack import open_store
from image_builder.build import build
from image_builder.build_tree import build_tree
from image_builder.directory import scan
from image_builder.options import BuildOptions
from runtime.snapshot_manifest import publish
from tests.store import samples
from tests.store.small_images import read_manifest

BUILDERS, COLLECTORS, ROUNDS = 3, 2, 4
SHRINKS, PART_BYTES, REST_FILES = 3, 150_000, 4
_prefixes = itertools.count()


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def url(request, tmp_path):
    if request.param == "directory":
        return str(tmp_path / "store")
    seaweedfs = request.getfixturevalue("s3_environment")
    return f"s3://{seaweedfs.fresh_bucket()}/race/{next(_prefixes)}"


def trees(tmp_path, count=3):
    """Trees that share most of their data, so that builds meet in the same blobs."""
    source = random.Random(4)
    shared = source.randbytes(400_000)
    for number in range(count):
        tree = tmp_path / f"tree-{number}"
        tree.mkdir()
        (tree / "shared").write_bytes(shared)
        (tree / "own").write_bytes(source.randbytes(100_000))
    return [tmp_path / f"tree-{number}" for number in range(count)]


def build_and_remove(store, sources, number):
    """Build the same few trees again and again, based on each other, and remove them."""
    source = random.Random(number)
    for turn in range(ROUNDS):
        reference = f"app:{number}"
        base = f"app:{source.randrange(BUILDERS)}"
        with suppress(ReferenceNotFound), base_may_go(store, base):
            options = BuildOptions(threads=1, base=base if turn else None)
            build(str(source.choice(sources)), store, reference=reference, options=options)
            check(store, ReferenceName.parse(reference))
        if turn + 1 < ROUNDS:
            remove(store, reference)


@contextmanager
def base_may_go(store, base):
    """Without a grace a base may be removed and collected before the builder leases it."""
    seen = current(store, ReferenceName.parse(base))
    try:
        yield
    except BlobNotFound as err:
        if seen is None or err.digest != seen.target.digest:
            raise


def capture_and_remove(store, image, tree, number):
    """What a capture does with the store, without the process."""
    for turn in range(ROUNDS):
        name = ReferenceName.parse(f"snap:{number}")
        with leased(store, (image.descriptor().digest,)) as writer:
            built = build_tree(scan(os.fsencode(tree)).tree, writer.store)
            content, index = samples.bundle()
            config = Descriptor.of(
                media_types.SNAPSHOT_CONFIG, samples.snapshot_config().to_bytes(), inline=True
            )
            for blob in (config.data, content, index.encode()):
                writer.store.blobs.put(Digest.of(blob), blob)
            snapshot = replace(
                samples.snapshot(),
                config=config,
                bootstrap=built.bootstrap,
                devices=built.devices,
                bundle=Descriptor.of(media_types.BUNDLE, content),
                bundle_index=Descriptor.of(media_types.BUNDLE_INDEX, index.encode(), inline=True),
                subject=image.descriptor(inline=True),
            )
            publish(writer, name, snapshot)
        check(store, name)
        if turn + 1 < ROUNDS:
            remove(store, str(name))


def remove(store, text):
    with suppress(ReferenceNotFound, Conflict):
        reference = store.references.get(ReferenceName.parse(text))
        store.references.remove(reference.name, reference.version)


def shrink(store, directory, number):
    """Leave little of large images to others that are based on them; read those all the time."""
    source = random.Random(100 + number)
    for turn in range(SHRINKS):
        tree = directory / f"shrinking-{number}-{turn}"
        tree.mkdir()
        for file in ("part", *(f"rest-{n}" for n in range(REST_FILES))):
            (tree / file).write_bytes(source.randbytes(PART_BYTES))
        whole, part = f"whole:{number}", f"part:{number}-{turn}"
        build(str(tree), store, reference=whole, options=BuildOptions(threads=1))
        for file in tree.glob("rest-*"):
            file.unlink()
        options = BuildOptions(threads=1, base=whole)
        borrowed = build(str(tree), store, reference=part, options=options)
        assert borrowed.stats.new_chunks == 0
        remove(store, whole)
        for old in range(turn + 1):
            check(store, ReferenceName.parse(f"part:{number}-{old}"))
        # Based on what may be rewritten just now.
        again = build(
            str(tree), store, reference=f"again:{number}", options=replace(options, base=part)
        )
        assert again.stats.new_chunks == 0
        check(store, ReferenceName.parse(f"again:{number}"))


def check(store, name):
    """Everything that a name needs is there, and every chunk is what its table says."""
    manifest = parse_manifest(bytes(store.blobs.read(store.references.get(name).target.digest)))
    for blob in manifest.blobs():
        if blob.media_type != media_types.PACK:
            assert store.blobs.size(blob.digest) == blob.size, blob
    read_manifest(store, manifest)


def collect_until(store, is_over, removed):
    while not is_over.is_set():
        with suppress(CollectorRunning):
            removed.append(Collector(store, grace_s=0, removers=4).collect().removed.blobs)


def test_nobody_loses_a_blob_while_collectors_run_without_a_grace(url, tmp_path):
    stores = [open_store(url) for _ in range(BUILDERS + COLLECTORS + 2)]
    sources = trees(tmp_path)
    image = build(str(sources[0]), stores[0], reference="image:v1").manifest
    errors, removed, is_over = [], [], threading.Event()

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except BaseException as err:
            errors.append(err)

    writers = [
        threading.Thread(target=guarded, args=(build_and_remove, stores[n], sources, n))
        for n in range(BUILDERS)
    ]
    capture = (capture_and_remove, stores[BUILDERS], image, sources[1], 0)
    writers.append(threading.Thread(target=guarded, args=capture))
    shrinking = (shrink, stores[-1], tmp_path, 0)
    writers.append(threading.Thread(target=guarded, args=shrinking))
    collectors = [
        threading.Thread(target=guarded, args=(collect_until, store, is_over, removed))
        for store in stores[BUILDERS + 1 : -1]
    ]
    for thread in (*collectors, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    is_over.set()
    for thread in collectors:
        thread.join()
    assert errors == []
    assert sum(removed) > 0
    store = open_store(url)
    # A collector that gave way to the other one has not told what it had rewritten by then.
    assert any(relocated_pack(name) for name in store.references.names())
    images = [name for name in store.references.names() if not name.is_reserved]
    assert ReferenceName("snap", "0") in images
    for name in images:
        check(store, name)
    Collector(store, grace_s=0).collect()
    for name in images:
        check(store, name)
    assert {digest for digest, _ in store.blobs.digests()} == needed_by(store, images)


def needed_by(store, images):
    """What the images need, and what stands in for their packs."""
    needed = set()
    for name in images:
        target = store.references.get(name).target.digest
        manifest = parse_manifest(bytes(store.blobs.read(target)))
        needed |= {target, *(blob.digest for blob in manifest.blobs())}
    for name in store.references.names():
        pack = relocated_pack(name)
        if pack is not None:
            assert pack in needed
            relocation = find_relocation(store.blobs, store.references, pack)
            needed -= {pack}
            needed |= {store.references.get(name).target.digest, relocation.target}
    return needed
