"""The golden files keep their meaning, and what is written now still equals them."""

from dataclasses import replace

import pytest

from hotstart.core.digest import Digest
from hotstart.store.bundle import BundleIndex
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.leases import LeaseDocument
from hotstart.store.manifest import ImageManifest, SnapshotManifest
from hotstart.store.packs import chunk_digest, decode_verified
from hotstart.store.ready_map import ReadyMap
from hotstart.store.ready_map_header import HEADER_BYTES, Header, parse_header
from hotstart.store.references import decode_reference
from hotstart.store.relocation import Relocation
from hotstart.store.snapshot_config import SnapshotConfig
from hotstart.store.trace import Trace
from tests.golden.write import GOLDEN, HERE, NAME, TARGET
from tests.store import samples
from tests.store.test_trace_and_bundle import unpack

UNCOMPRESSED = (
    "snapshot-config.v2",
    "reference.v1",
    "lease.v1",
    "ready-map.v1",
    "ready-map-header.v1",
    "relocation.v1",
)

V1_CONFIG = replace(samples.snapshot_config(), user="1000:1000", stop_signal="SIGTERM")


def golden(name):
    return (HERE / name).read_bytes()


def test_every_file_has_a_source_and_every_source_a_file():
    files = {path.name for path in HERE.iterdir() if path.is_file()}
    assert files - {"README.md", "write.py", "__init__.py"} >= set(GOLDEN)


@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_uncompressed_formats_are_written_byte_for_byte_as_before(name):
    assert GOLDEN[name]() == golden(name)


def test_an_image_manifest_is_read_and_written_again_unchanged():
    manifest = ImageManifest.parse(golden("image-manifest.v1"))
    assert manifest.to_bytes() == golden("image-manifest.v1")
    assert manifest.annotations == samples.image().annotations
    assert manifest.config == samples.image().config
    assert [pack.digest for pack in manifest.devices[0].packs] == list(samples.PACKS)
    table = golden("chunk-table.v1")
    assert manifest.devices[0].device_id == Digest.of(table).hex
    assert manifest.devices[0].head_digest == Digest.of(table[: manifest.devices[0].head_length])


def test_a_snapshot_manifest_is_read_and_written_again_unchanged():
    manifest = SnapshotManifest.parse(golden("snapshot-manifest.v1"))
    assert manifest.to_bytes() == golden("snapshot-manifest.v1")
    assert SnapshotConfig.parse(manifest.config.data) == V1_CONFIG
    assert manifest.subject.data == golden("image-manifest.v1")
    assert manifest.bundle_index.data == golden("bundle-index.v1")
    assert manifest.bundle.digest == Digest.of(golden("bundle.v1"))


def test_a_snapshot_config_means_what_it_meant():
    assert SnapshotConfig.parse(golden("snapshot-config.v1")) == V1_CONFIG
    assert SnapshotConfig.parse(golden("snapshot-config.v2")) == samples.snapshot_config_v2()


def test_a_reference_means_what_it_meant():
    assert decode_reference(golden("reference.v1"), NAME) == TARGET


def test_a_lease_means_what_it_meant():
    document = LeaseDocument.parse(golden("lease.v1"))
    assert document.holder == samples.lease().holder
    assert document.manifests == samples.lease().manifests
    assert set(document.blobs) == set(samples.lease().blobs)


def test_a_chunk_table_means_what_it_meant():
    content = golden("chunk-table.v1")
    table = ChunkTable.of_bytes(content)
    assert list(table) == samples.chunks(5)
    assert table.packs == samples.PACKS
    written = GOLDEN["chunk-table.v1"]()
    assert written[:48] == content[:48]


def test_a_trace_means_what_it_meant():
    assert Trace.decode(golden("trace.v1")) == samples.trace()


def test_a_relocation_means_what_it_meant():
    assert Relocation.decode(golden("relocation.v1")) == samples.relocation()


def test_a_bundle_and_its_index_mean_what_they_meant():
    index = BundleIndex.decode(golden("bundle-index.v1"))
    bundle, current = samples.bundle()
    assert unpack(golden("bundle.v1"), index) == unpack(bundle, current)
    assert index.memory_order == current.memory_order
    assert index.device_ids == current.device_ids


def test_a_pack_means_what_it_meant():
    content = golden("pack.v1")
    _, (first, second) = samples.pack()
    assert (first.raw, second.raw) == (False, True)
    raw_at = len(content) - second.stored_length
    for stored, raw, expected in (
        (content[:raw_at], first.raw, samples.PACKED[0]),
        (content[raw_at:], second.raw, samples.PACKED[1]),
    ):
        digest = chunk_digest(expected)
        length = len(expected)
        assert (
            decode_verified(stored, raw=raw, length=length, digest=digest, source="golden")
            == expected
        )


def test_a_ready_map_means_what_it_meant_in_this_boot_and_the_next(tmp_path):
    path = tmp_path / "d.ready"
    path.write_bytes(golden("ready-map.v1"))
    path.with_suffix(".dev").write_bytes(b"data")
    for boot in (samples.BOOT, b"another boot id!"):
        with ReadyMap.open(path, samples.DEVICES[0], 40, boot_id=boot) as ready:
            assert ready.ready_pages() == sum(pages for _, pages in samples.READY)
            assert all(ready.missing(*run) == -1 for run in samples.READY)
            assert ready.missing(4, 1) == 4


def test_the_header_of_a_ready_map_means_what_it_meant():
    content = golden("ready-map-header.v1")
    assert len(content) == HEADER_BYTES
    assert parse_header(content) == Header("ab" * 32, 7, bytes(range(16)))
