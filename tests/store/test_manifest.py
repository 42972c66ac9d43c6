"""Manifests, snapshot configurations and reference names: round trips and refusals."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.digest import Digest
from hotstart.store import media_types
from hotstart.store.bundle import BundleIndex
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import raw_digest, raw_size
from hotstart.store.manifest import (
    ImageManifest,
    ManifestInvalid,
    SnapshotManifest,
    parse_manifest,
)
from hotstart.store.references import ReferenceName, ReferenceNameInvalid
from hotstart.store.snapshot_config import SnapshotConfig, SnapshotConfigInvalid
from tests.store import samples

IMAGE = samples.image()
SNAPSHOT = samples.snapshot()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def changed(manifest, change):
    """The manifest's bytes after ``change`` was made to its JSON value."""
    value = json.loads(manifest.to_bytes())
    change(value)
    return canonical(value)


def test_an_image_manifest_survives_its_bytes():
    assert ImageManifest.parse(IMAGE.to_bytes()) == IMAGE
    assert raw_size(IMAGE.bootstrap) == 900
    assert raw_digest(IMAGE.bootstrap) == Digest.of(b"bootstrap" * 100)


def test_a_snapshot_manifest_survives_its_bytes():
    assert SnapshotManifest.parse(SNAPSHOT.to_bytes()) == SNAPSHOT
    bare = replace(SNAPSHOT, bundle=None, bundle_index=None)
    assert SnapshotManifest.parse(bare.to_bytes()) == bare


def test_one_read_of_a_snapshot_brings_config_index_and_image():
    read = SnapshotManifest.parse(SNAPSHOT.to_bytes())
    assert SnapshotConfig.parse(read.config.data) == samples.snapshot_config()
    assert BundleIndex.decode(read.bundle_index.data) == samples.bundle_index()
    assert read.image() == IMAGE


def test_a_manifest_is_an_oci_image_manifest():
    value = json.loads(IMAGE.to_bytes())
    assert value["schemaVersion"] == 2
    assert value["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert value["artifactType"] == "application/vnd.hotstart.image.v1"
    assert value["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert json.loads(SNAPSHOT.to_bytes())["subject"]["digest"] == str(IMAGE.descriptor().digest)


def test_every_pack_is_listed_after_its_table():
    kinds = [layer["mediaType"] for layer in json.loads(SNAPSHOT.to_bytes())["layers"]]
    assert kinds == [
        media_types.BOOTSTRAP,
        media_types.CHUNK_TABLE,
        *[media_types.PACK] * 3,
        media_types.BUNDLE,
        media_types.BUNDLE_INDEX,
    ]


def test_blobs_names_everything_once():
    digests = [blob.digest for blob in SNAPSHOT.blobs()]
    assert len(digests) == len(set(digests))
    assert set(digests) == {
        SNAPSHOT.config.digest,
        SNAPSHOT.subject.digest,
        SNAPSHOT.bundle.digest,
        SNAPSHOT.bundle_index.digest,
        *(blob.digest for blob in IMAGE.blobs()),
    }


def test_an_image_is_not_taken_for_a_snapshot():
    with pytest.raises(ManifestInvalid, match="this is an image"):
        SnapshotManifest.parse(IMAGE.to_bytes())
    with pytest.raises(ManifestInvalid, match="this is a snapshot"):
        ImageManifest.parse(SNAPSHOT.to_bytes())


CHANGES = {
    "no bootstrap": lambda v: v["layers"].pop(0),
    "no layers": lambda v: v.update(layers=[]),
    "packs before their table": lambda v: v["layers"].insert(1, v["layers"].pop(2)),
    "a foreign layer": lambda v: v["layers"].append({**v["layers"][0], "mediaType": "x/y"}),
    "a wrong device number": lambda v: v["layers"][1]["annotations"].update(
        {media_types.DEVICE_NUMBER: "1"}
    ),
    "a size that is no page": lambda v: v["layers"][1]["annotations"].update(
        {media_types.DEVICE_SIZE: "4097"}
    ),
    "a size that is no number": lambda v: v["layers"][1]["annotations"].update(
        {media_types.DEVICE_SIZE: "-4096"}
    ),
    "a number with a leading zero": lambda v: v["layers"][1]["annotations"].update(
        {media_types.DEVICE_SIZE: "04096"}
    ),
    "a head beyond its table": lambda v: v["layers"][1]["annotations"].update(
        {media_types.HEAD_LENGTH: str(1 << 40)}
    ),
    "no digest of the head": lambda v: v["layers"][1]["annotations"].pop(media_types.HEAD_DIGEST),
    "an unknown annotation": lambda v: v["layers"][1]["annotations"].update({"x": "y"}),
    "another config": lambda v: v["config"].update(mediaType="x/y"),
    "a negative size": lambda v: v["config"].update(size=-1),
    "a size that is true": lambda v: v["config"].update(size=True),
    "another digest": lambda v: v["config"].update(digest="md5:0"),
    "another artifact": lambda v: v.update(artifactType="application/x"),
    "another media type": lambda v: v.update(mediaType="application/x"),
    "empty annotations": lambda v: v.update(annotations={}),
    "annotations that are no text": lambda v: v.update(annotations={"a": 1}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_image_manifest_is_refused_with(name):
    with pytest.raises(ManifestInvalid):
        parse_manifest(changed(IMAGE, CHANGES[name]))


SNAPSHOT_CHANGES = {
    "an index without its bundle": lambda v: v["layers"].pop(-2),
    "a bundle without its index": lambda v: v["layers"].pop(-1),
    "a config that is not inline": lambda v: v["config"].pop("data"),
    "an index that is not inline": lambda v: v["layers"][-1].pop("data"),
    "an image that is not inline": lambda v: v["subject"].pop("data"),
    "no image": lambda v: v.pop("subject"),
    "half a signature": lambda v: v["annotations"].update({media_types.SIGNATURE: "AA=="}),
}


@pytest.mark.parametrize("name", SNAPSHOT_CHANGES)
def test_a_snapshot_manifest_is_refused_with(name):
    with pytest.raises(ManifestInvalid):
        parse_manifest(changed(SNAPSHOT, SNAPSHOT_CHANGES[name]))


def test_a_snapshot_whose_image_is_no_image_is_refused():
    subject = Descriptor.of(media_types.OCI_MANIFEST, b"{}", inline=True)
    with pytest.raises(ManifestInvalid):
        parse_manifest(replace(SNAPSHOT, subject=subject).to_bytes())


CONFIG = samples.snapshot_config()


def test_a_snapshot_config_survives_its_bytes():
    assert SnapshotConfig.parse(CONFIG.to_bytes()) == CONFIG
    bare = replace(CONFIG, ready=None, memory_bytes=None, cpus=None, goldens=(), fingerprint={})
    assert SnapshotConfig.parse(bare.to_bytes()) == bare


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ()},
        {"verdict": "perfect"},
        {"ports": (0,)},
        {"ports": (65536,)},
        {"memory_bytes": -1},
        {"cpus": 0},
        {"read_ahead_kib": -1},
        {"created_ns": -1},
        {"memory_files": (replace(CONFIG.memory_files[0], device_offset=1),)},
    ],
)
def test_configs_that_no_reader_takes_are_refused_when_written(change):
    with pytest.raises(ValueError, match="snapshot config"):
        replace(CONFIG, **change).to_bytes()


def test_a_config_keeps_an_answer_or_its_digest_and_length_never_half_of_them():
    config = samples.snapshot_config_v2()
    assert SnapshotConfig.parse(config.to_bytes()) == config
    value = json.loads(config.to_bytes())
    large = value["goldens"][-1]["expected"]
    for change in ({"body": ""}, {"body_bytes": None}, {"body_digest": None}):
        value["goldens"][-1]["expected"] = {
            key: item for key, item in {**large, **change}.items() if item is not None
        }
        with pytest.raises(SnapshotConfigInvalid, match="body"):
            SnapshotConfig.parse(canonical(value))


def test_a_config_of_version_1_has_no_key_of_version_2():
    value = json.loads(samples.snapshot_config_v2().to_bytes())
    value["version"] = 1
    with pytest.raises(SnapshotConfigInvalid, match="body_digest"):
        SnapshotConfig.parse(canonical(value))
    del value["goldens"]
    with pytest.raises(SnapshotConfigInvalid, match="start_key"):
        SnapshotConfig.parse(canonical({**value, "goldens": []}))


@pytest.mark.parametrize("key", json.loads(CONFIG.to_bytes()))
def test_every_key_of_a_config_is_needed(key):
    value = json.loads(CONFIG.to_bytes())
    del value[key]
    with pytest.raises(SnapshotConfigInvalid, match=key):
        SnapshotConfig.parse(canonical(value))


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("app", "app:latest"),
        ("team/app:v1", "team/app:v1"),
        ("a.b/c-d/e_f:V1.2-x", "a.b/c-d/e_f:V1.2-x"),
        ("a__b:1", "a__b:1"),
    ],
)
def test_reference_names_have_one_full_form(text, full):
    assert str(ReferenceName.parse(text)) == full
    assert ReferenceName.parse(full) == ReferenceName.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":v1",
        "A",
        "a b",
        "../x",
        "a/../b",
        "/a",
        "a/",
        "a//b",
        "a:b:c",
        "a:-x",
        "_tags/a",
        "a:.x",
        "-a",
        "a-",
        "a\n",
        "a:b\n",
        "ü",
        "x" * 201,
        "a:" + "x" * 129,
        "a/.lock",
    ],
)
def test_other_texts_are_no_reference_names(text):
    with pytest.raises(ReferenceNameInvalid) as caught:
        ReferenceName.parse(text)
    assert caught.value.hint


@given(st.text(max_size=30))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_any_text_is_a_name_that_stays_below_its_directory_or_refused(text):
    try:
        name = ReferenceName.parse(text)
    except ReferenceNameInvalid:
        return
    parts = f"{name.repository}/{name.tag}".split("/")
    assert not {"", ".", "..", "_tags", ".lock"} & set(parts)


def test_names_of_traces_are_reserved():
    name = ReferenceName.trace_of(IMAGE.descriptor().digest)
    assert name.is_reserved
    assert ReferenceName.parse(str(name)) == name
    assert not ReferenceName.parse("team/app").is_reserved
