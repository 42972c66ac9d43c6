"""Images of a few chunks whose places in packs a test chooses."""

import functools
import random
from dataclasses import dataclass, replace

from hotstart.core.digest import Digest
from hotstart.core.span import PAGE, Span
from hotstart.store import media_types
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.collect import Collector
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor, bootstrap_descriptor
from hotstart.store.manifest import ImageManifest, parse_manifest
from hotstart.store.packs import chunk_digest, decode_verified
from hotstart.store.publishing import current
from hotstart.store.references import ReferenceName
from hotstart.store.relocating import RelocatingBlobs
from tests.fakes.memory_store import memory_store

CONFIG = b"{}"
BOOTSTRAP = b"bootstrap"


@functools.cache
def piece(number, pages=16):
    """The bytes of a chunk, as good as incompressible."""
    return random.Random(number).randbytes(pages * PAGE)


@dataclass(frozen=True)
class Pack:
    """Chunks by their numbers, end to end."""

    numbers: tuple
    pages: int = 16

    @functools.cached_property
    def content(self):
        return b"".join(piece(number, self.pages) for number in self.numbers)

    @functools.cached_property
    def digest(self):
        return Digest.of(self.content)

    def put(self, store):
        store.blobs.put(self.digest, self.content)


@dataclass(frozen=True)
class Image:
    """A device whose chunks are (pack, number), in this order."""

    chunks: tuple

    @property
    def packs(self):
        return tuple(dict.fromkeys(pack for pack, _ in self.chunks))

    @functools.cached_property
    def table(self):
        made, offset = [], 0
        for pack, number in self.chunks:
            length = pack.pages * PAGE
            place = pack.numbers.index(number) * length
            digest = chunk_digest(piece(number, pack.pages))
            made.append(Chunk(offset, length, self.packs.index(pack), place, length, True, digest))
            offset += length
        return ChunkTable.encode(made, [pack.digest for pack in self.packs], offset)

    @property
    def device(self):
        table = self.table
        packs = [Descriptor(media_types.PACK, p.digest, len(p.content)) for p in self.packs]
        size = sum(pack.pages * PAGE for pack, _ in self.chunks)
        return DeviceDescriptor.of(
            table.content, size_bytes=size, head_length=table.head_length, packs=packs
        )

    @property
    def manifest(self):
        config = Descriptor.of(media_types.OCI_CONFIG, CONFIG)
        bootstrap = bootstrap_descriptor(BOOTSTRAP, BOOTSTRAP)
        return ImageManifest(config, bootstrap, (self.device,))

    def put(self, store, *, packs=True):
        """Store everything that the image needs, and return its manifest's descriptor."""
        contents = [CONFIG, BOOTSTRAP, self.table.content, self.manifest.to_bytes()]
        contents += [pack.content for pack in self.packs if packs]
        for content in contents:
            store.blobs.put(Digest.of(content), content)
        return self.manifest.descriptor()


def image_of(*parts):
    """An image of the chunks ``[(pack, numbers), ...]``."""
    return Image(tuple((pack, number) for pack, numbers in parts for number in numbers))


def name_it(store, text, image, *, packs=True):
    """Store an image and point a name to it."""
    name = ReferenceName.parse(text)
    before = current(store, name)
    target = image.put(store, packs=packs)
    store.references.swap(name, target, before.version if before else None)


def remove_name(store, text):
    reference = store.references.get(ReferenceName.parse(text))
    store.references.remove(reference.name, reference.version)


def read_name(store, text):
    """Every chunk of a name, verified, as the device's bytes."""
    target = store.references.get(ReferenceName.parse(text)).target
    return read_manifest(store, parse_manifest(bytes(store.blobs.read(target.digest))))


def read_manifest(store, manifest):
    parts = []
    for device in manifest.devices:
        for chunk in ChunkTable.open(store.blobs, device):
            span = Span(chunk.pack_offset, chunk.stored_length)
            stored = store.blobs.read(device.packs[chunk.pack].digest, span)
            parts.append(
                decode_verified(
                    stored, raw=chunk.raw, length=chunk.length, digest=chunk.digest, source="test"
                )
            )
    return b"".join(bytes(part) for part in parts)


def content_of(image):
    return b"".join(piece(number, pack.pages) for pack, number in image.chunks)


PIECE = 64 << 10
OLD = Pack(tuple(range(8)))
WHOLE = image_of((OLD, range(8)))
FEW = image_of((OLD, (1, 2)))


def rewritable_store():
    """A store in memory that is opened as a real one is."""
    model = memory_store()
    return replace(model, blobs=RelocatingBlobs(model.blobs, model.references))


def gc(store, **options):
    return Collector(store, grace_s=0, **options).collect()


def relocations(store):
    return [n for n in store.references.names() if n.repository.startswith("hotstart.relocation/")]


def mostly_dead(store):
    """Of the pack OLD only two chunks are needed: by the name few, which has borrowed them."""
    name_it(store, "whole", WHOLE)
    name_it(store, "few", FEW)
    remove_name(store, "whole")


def stored_bytes(store):
    return sum(size for _, size in store.blobs.digests())
