"""No bytes make a parser raise anything but its own errors; what it takes, it gives back."""

import contextlib
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.store.bundle import BundleIndex
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.descriptor import Descriptor, DescriptorInvalid
from hotstart.store.format_errors import FormatInvalid, FormatVersionUnknown
from hotstart.store.manifest import ManifestInvalid, parse_manifest
from hotstart.store.packs import ChunkInvalid, decode
from hotstart.store.ready_map_header import encode_header, parse_header
from hotstart.store.references import ReferenceName, decode_reference, encode_reference
from hotstart.store.relocation import Relocation
from hotstart.store.snapshot_config import SnapshotConfig
from hotstart.store.trace import Trace
from hotstart.store.zstd_frame import FrameInvalid, compress, decompress
from tests.store import samples

OWN = (FormatInvalid, FormatVersionUnknown, DigestMismatch)
NAME = ReferenceName.parse("team/app:v1")
DERANDOMISED = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_table(content):
    return list(ChunkTable.of_bytes(content))


FORMATS = {
    "image manifest": (parse_manifest, lambda: samples.image().to_bytes()),
    "snapshot manifest": (parse_manifest, lambda: samples.snapshot().to_bytes()),
    "chunk table": (read_table, lambda: samples.table()[0].content),
    "trace": (Trace.decode, lambda: samples.trace().encode()),
    "relocation": (Relocation.decode, lambda: samples.relocation().encode()),
    "bundle index": (BundleIndex.decode, lambda: samples.bundle_index().encode()),
    "snapshot config": (SnapshotConfig.parse, lambda: samples.snapshot_config().to_bytes()),
    "ready map": (parse_header, lambda: encode_header("ab" * 32, 7, bytes(16))),
    "reference": (
        lambda content: decode_reference(content, NAME),
        lambda: encode_reference(NAME, Descriptor.of("a/b", b"x")),
    ),
}
# A zstd frame has bits without meaning, and the head of a ready map a digest of its body.
MEANINGLESS_BITS = ("chunk table", "trace", "bundle index", "ready map")
every_format = pytest.mark.parametrize("name", FORMATS)


@every_format
@given(content=st.binary(max_size=300))
@DERANDOMISED
def test_arbitrary_bytes_raise_only_the_formats_own_errors(name, content):
    parse, _ = FORMATS[name]
    with pytest.raises(OWN):
        parse(content)


@every_format
@given(seed=st.integers(0, 1 << 32))
@DERANDOMISED
def test_a_damaged_document_raises_only_its_own_errors(name, seed):
    parse, make = FORMATS[name]
    content, source = bytearray(make()), random.Random(seed)
    for _ in range(source.randint(1, 4)):
        content[source.randrange(len(content))] = source.randrange(256)
    cut = source.choice((len(content), source.randrange(len(content))))
    damaged = bytes(content[:cut])
    with contextlib.suppress(OWN):
        value = parse(damaged)
        assert value != parse(make()) or damaged == make() or name in MEANINGLESS_BITS


@every_format
def test_every_flipped_byte_raises_only_own_errors_or_is_another_value(name):
    parse, make = FORMATS[name]
    content = make()
    for position in range(0, len(content), max(1, len(content) // 400)):
        flipped = bytearray(content)
        flipped[position] ^= 0x5A
        try:
            value = parse(bytes(flipped))
        except OWN:
            continue
        if name not in MEANINGLESS_BITS:
            assert value != parse(content), f"byte {position} means nothing"


@every_format
def test_a_truncated_document_is_refused(name):
    parse, make = FORMATS[name]
    content = make()
    for length in range(0, len(content), max(1, len(content) // 200)):
        with pytest.raises(OWN):
            parse(content[:length])


@every_format
def test_trailing_bytes_are_refused(name):
    parse, make = FORMATS[name]
    with pytest.raises(OWN):
        parse(make() + b"\0")


@pytest.mark.parametrize("name", ["chunk table", "trace", "bundle index", "ready map"])
@pytest.mark.parametrize("version", [0, 2, 65535])
def test_other_versions_of_binary_formats_are_refused_by_name(name, version):
    parse, make = FORMATS[name]
    content = bytearray(make())
    content[8:10] = version.to_bytes(2, "little")
    with pytest.raises(FormatVersionUnknown, match=f"{name}: version {version} is unknown"):
        parse(bytes(content))


@pytest.mark.parametrize("name", ["reference", "snapshot config"])
@pytest.mark.parametrize("version", [0, 3, "1", None, True, 1.5, [1]])
def test_other_versions_of_documents_are_refused_by_name(name, version):
    parse, make = FORMATS[name]
    value = json.loads(make())
    value["version"] = version
    with pytest.raises(FormatVersionUnknown, match=name):
        parse(_canonical(value))


@pytest.mark.parametrize("key", ["schemaVersion", "artifactType"])
def test_manifests_of_another_version_are_refused_by_name(key):
    value = json.loads(samples.image().to_bytes())
    value[key] = 3 if key == "schemaVersion" else "application/vnd.hotstart.image.v2"
    with pytest.raises(FormatVersionUnknown):
        parse_manifest(_canonical(value))


@pytest.mark.parametrize("spelling", ["canonical", "another"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_layers_of_another_version_are_refused_by_name_however_they_are_spelled(layer, spelling):
    value = json.loads(samples.image().to_bytes())
    of_two = value["layers"][layer]["mediaType"].replace(".v1", ".v2")
    value["layers"][layer]["mediaType"] = of_two
    with pytest.raises(FormatVersionUnknown, match=r"version 2 is unknown.*use a newer Hotstart"):
        parse_manifest(_canonical(value) if spelling == "canonical" else json.dumps(value).encode())


@pytest.mark.parametrize("name", ["image manifest", "snapshot manifest", "snapshot config"])
def test_unknown_keys_are_refused_by_name(name):
    parse, make = FORMATS[name]
    value = json.loads(make())
    value["from_the_future"] = 1
    with pytest.raises(FormatInvalid, match="from_the_future"):
        parse(_canonical(value))


@pytest.mark.parametrize("name", ["image manifest", "snapshot manifest", "snapshot config"])
def test_another_spelling_of_the_same_document_is_refused(name):
    parse, make = FORMATS[name]
    with pytest.raises(FormatInvalid, match="canonical"):
        parse(json.dumps(json.loads(make())).encode())


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b"\xff",
        b"[]",
        b"null",
    ],
)
def test_hostile_json_is_refused(content):
    with pytest.raises(ManifestInvalid):
        parse_manifest(content)


def _canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_inline_data_must_be_what_the_descriptor_names():
    good = Descriptor.of("a/b", b"data", inline=True).to_json()
    assert Descriptor.from_json(good).data == b"data"
    for change in ({"data": "ZGF0"}, {"size": 5}, {"digest": str(Digest.of(b"x"))}, {"data": "?"}):
        with pytest.raises(DescriptorInvalid):
            Descriptor.from_json({**good, **change})


@given(content=st.binary(max_size=2000))
@DERANDOMISED
def test_zstd_frames_give_back_their_content(content):
    assert decompress(compress(content), len(content)) == content


@given(content=st.binary(max_size=200), length=st.integers(0, 1 << 20))
@DERANDOMISED
def test_arbitrary_frames_raise_only_their_own_error(content, length):
    with pytest.raises(FrameInvalid):
        decompress(content, length)
    if len(content) != length:
        with pytest.raises(ChunkInvalid):
            decode(content, raw=True, length=length)
    with pytest.raises(ChunkInvalid):
        decode(content, raw=False, length=length)


def test_a_frame_of_another_length_takes_no_memory():
    bomb = compress(bytes(1 << 24))
    with pytest.raises(FrameInvalid, match="expected 4096"):
        decompress(bomb, 4096)
