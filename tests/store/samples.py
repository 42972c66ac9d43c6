"""Values of every format, used by the property tests and as the source of the golden files."""

import random
from dataclasses import replace

from hotstart.core.digest import ChunkDigest, Digest
from hotstart.core.span import PAGE
from hotstart.store import media_types
from hotstart.store.bundle import BundleIndex, BundleWriter
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor, bootstrap_descriptor
from hotstart.store.leases import LeaseDocument
from hotstart.store.manifest import ImageManifest, SnapshotManifest
from hotstart.store.packs import PackWriter
from hotstart.store.page_runs import Run as PageRun
from hotstart.store.ready_map import ReadyMap
from hotstart.store.relocation import Relocation, Run
from hotstart.store.snapshot_config import (
    REHEARSED,
    ExpectedAnswer,
    ExternalMount,
    Golden,
    MemoryFile,
    SnapshotConfig,
)
from hotstart.store.trace import Trace, TraceSpan
from hotstart.store.zstd_frame import compress
from tests.fakes.memory_store import MemoryBlobs

PACKED = (b"text " * 4000, random.Random(7).randbytes(PAGE))
BOOT = bytes(range(16))
READY = ((0, 4), (9, 1), (30, 10))

PACKS = tuple(Digest.of(b"pack %d" % number) for number in range(3))
DEVICES = tuple(Digest.of(b"device %d" % number).hex for number in range(2))


def chunks(count, seed=1):
    """Sorted chunks with holes between some of them."""
    source = random.Random(seed)
    made, offset = [], 0
    for number in range(count):
        offset += source.choice((0, 0, 0, PAGE, 5 * PAGE))
        length = PAGE * source.randint(1, 60)
        raw = number % 3 == 0
        stored = length if raw else source.randint(1, length)
        digest = ChunkDigest(source.randbytes(32))
        made.append(Chunk(offset, length, number % 3, number * 1000, stored, raw, digest))
        offset += length
    return made


def table(count=5):
    """An encoded chunk table and its device's size in bytes."""
    made = chunks(count)
    size = made[-1].device_offset + made[-1].length + PAGE if made else PAGE
    return ChunkTable.encode(made, PACKS, size), size


def pack():
    """A pack of two chunks, the first compressed and the second raw, and where they lie."""
    blobs = MemoryBlobs()
    with PackWriter(blobs) as writer:
        placed = [writer.add(content) for content in PACKED]
        (descriptor,) = writer.finish()
    return bytes(blobs.read(descriptor.digest)), placed


def ready_map(directory):
    """A map of a device of 40 pages, of which three runs are ready and on disk."""
    device = directory / "d.dev"
    device.write_bytes(b"data" * PAGE)
    with ReadyMap.open(directory / "d.ready", DEVICES[0], 40, boot_id=BOOT) as ready:
        for run in READY:
            ready.set(*run)
        with device.open("rb") as file:
            ready.sync(file.fileno())
    return (directory / "d.ready").read_bytes()


def trace():
    spans = (TraceSpan(0, 0, 10, 4), TraceSpan(3, 1, 0, 1), TraceSpan(3, 0, 20, 100))
    return Trace(DEVICES, spans)


def bundle():
    """A bundle and its index; the first frame compresses, the second does not."""
    writer = BundleWriter(DEVICES, frame_bytes=4 * PAGE)
    writer.add(PageRun(1, 7, 1), b"b" * PAGE)
    writer.add(PageRun(0, 5, 3), b"a" * 3 * PAGE)
    writer.add(PageRun(0, 100, 2), random.Random(3).randbytes(2 * PAGE))
    return writer.finish((PageRun(0, 9, 2), PageRun(0, 3, 1)))


def bundle_index() -> BundleIndex:
    return bundle()[1]


def image():
    encoded, size = table()
    packs = [Descriptor(media_types.PACK, digest, 5000) for digest in PACKS]
    device = DeviceDescriptor.of(
        encoded.content, size_bytes=size, head_length=encoded.head_length, packs=packs
    )
    raw = b"bootstrap" * 100
    return ImageManifest(
        config=Descriptor.of(media_types.OCI_CONFIG, b'{"os":"linux"}'),
        bootstrap=bootstrap_descriptor(compress(raw), raw),
        devices=(device,),
        annotations={"org.opencontainers.image.ref.name": "team/app:v1"},
    )


def lease():
    return LeaseDocument(
        "node-1:4711", (Digest.of(b"image"),), (Digest.of(b"pack"), Digest.of(b"table"))
    )


def snapshot_config_v2():
    """With all that version 1 could not say."""
    large = ExpectedAnswer(200, body_digest=Digest.of(b"large"), body_bytes=70_000)
    config = snapshot_config()
    goldens = (*config.goldens, Golden({"path": "/large", "port": 8000}, large))
    return replace(config, goldens=goldens, start_key="ab" * 32)


def relocation():
    return Relocation(PACKS[0], PACKS[1], 700, (Run(0, 100, 0), Run(300, 600, 100)))


def snapshot_config():
    return SnapshotConfig(
        image_reference="team/app:v1",
        argv=("python", "-m", "server", ""),
        env=("PATH=/bin", "NAME=ü"),
        workdir="/app",
        user="1000:1000+44",
        stop_signal="SIGINT",
        hostname="app",
        ready="http://:8000/health",
        ports=(8000,),
        volumes=("/data",),
        memory_bytes=1 << 30,
        cpus=1.5,
        stateful=True,
        verdict=REHEARSED,
        goldens=(
            Golden(
                {"method": "POST", "path": "/embed", "port": 8000, "body": "hello"},
                ExpectedAnswer(200, {"content-type": "application/json"}, json={"v": [1, 2.5]}),
            ),
            Golden({"exec": ["true"]}, ExpectedAnswer(0, {}, b"\x00\xff")),
        ),
        fingerprint={"machine": "x86_64", "features": ["avx2"]},
        criu_version="4.2.1",
        memory_files=(MemoryFile("pages-1.img", 16 * PAGE, 12345),),
        read_ahead_kib=64,
        upper=True,
        stdio_pipes=("pipe:[1]", "pipe:[2]", "pipe:[3]"),
        external_mounts=(ExternalMount("/dev/shm", "shm"),),
        created_ns=1_700_000_000_000_000_000,
    )


def snapshot():
    base = image()
    content, index = bundle()
    return SnapshotManifest(
        config=Descriptor.of(
            media_types.SNAPSHOT_CONFIG, snapshot_config().to_bytes(), inline=True
        ),
        bootstrap=base.bootstrap,
        devices=base.devices,
        bundle=Descriptor.of(media_types.BUNDLE, content),
        bundle_index=Descriptor.of(media_types.BUNDLE_INDEX, index.encode(), inline=True),
        subject=base.descriptor(inline=True),
        annotations={"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    )
