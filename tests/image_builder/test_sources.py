"""Every kind of source gives its image; a wrong one gives a sentence, and nothing is published."""

import gzip
import json
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.digest import DigestMismatch
from hotstart.core.errors import IntegrityError, UserError
from hotstart.core.run import run
from image_builder.build import build
from image_builder.errors import LimitExceeded, SourceInvalid
from image_builder.layer_spool import StagingFull
from image_builder.limits import Limits
from image_builder.options import BuildOptions
from tests.fakes.built_images import described, mounted
from tests.fakes.memory_store import memory_store
from tests.image_builder.archives import (
    Layout,
    directory,
    docker_archive,
    layer,
    link,
    member,
)
from tests.image_builder.rich_tree import make_rich_tree

LAYERS = [
    layer(directory("bin"), member("bin/app", content=b"old" * 5000), member("gone")),
    layer(member("bin/app", content=b"new" * 5000), member(".wh.gone"), link("app", "bin/app")),
]
CONFIG = {"Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["A=1"], "WorkingDir": "/srv"}


def publish(source, store=None, **options):
    store = store or memory_store()
    return build(str(source), store, reference="app:1", options=BuildOptions(**options))


def config_of(result, store):
    return json.loads(bytes(store.blobs.read(result.manifest.config.digest)))["config"]


@pytest.fixture(params=["plain", "gzip", "zstd"])
def layout(request):
    made = Layout()
    return made.index(made.image(LAYERS, CONFIG, how=request.param))


def test_a_layout_an_archive_of_it_and_a_docker_archive_give_the_same_image(layout, tmp_path):
    results = [
        publish(f"oci:{layout.write(tmp_path / 'layout')}"),
        publish(f"oci-archive:{layout.archive(tmp_path / 'image.tar')}"),
        publish(f"docker-archive:{docker_archive(tmp_path / 'docker.tar', LAYERS, CONFIG)}"),
    ]
    assert len({result.descriptor.digest for result in results}) == 1


def test_a_docker_archive_may_be_compressed_as_a_whole(tmp_path):
    plain = docker_archive(tmp_path / "docker.tar", LAYERS, CONFIG)
    packed = tmp_path / "docker.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    first, second = publish(f"docker-archive:{plain}"), publish(f"docker-archive:{packed}")
    assert first.descriptor == second.descriptor


def test_the_config_is_the_archives_under_the_options(layout, tmp_path):
    store = memory_store()
    source = f"oci:{layout.write(tmp_path / 'layout')}"
    assert config_of(publish(source, store), store) == CONFIG | {
        "Env": ["A=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    }
    changed = publish(source, store, command=("x", ""), environment=("A=2", "PATH=/b"), user="7")
    assert config_of(changed, store) == {
        "Cmd": ["x", ""],
        "Env": ["A=2", "PATH=/b"],
        "WorkingDir": "/srv",
        "User": "7",
    }


def test_the_platform_is_chosen_from_an_index(tmp_path):
    made = Layout()
    arm = made.image(LAYERS[:1], platform={"os": "linux", "architecture": "arm64"})
    amd = made.image(LAYERS, platform={"os": "linux", "architecture": "amd64"})
    note = made.image([], platform={"os": "unknown", "architecture": "unknown"})
    inner = made.blob(json.dumps({"manifests": [note, arm, amd]}).encode())
    source = f"oci:{made.index(inner).write(tmp_path / 'layout')}"
    both = publish(source, platform="linux/amd64"), publish(source, platform="linux/arm64")
    assert both[0].descriptor != both[1].descriptor
    with pytest.raises(SourceInvalid, match="no image for linux/riscv64; there is: linux/amd64"):
        publish(source, platform="linux/riscv64")


def test_an_image_for_another_platform_is_built_only_if_it_is_asked_for(tmp_path):
    made = Layout()
    foreign = {"os": "linux", "architecture": "s390x"}
    entry = {key: made.image(LAYERS, platform=foreign)[key] for key in ("digest", "size")}
    source = f"oci:{made.index(entry).write(tmp_path / 'layout')}"
    with pytest.raises(SourceInvalid, match="the image is for linux/s390x, not for linux/") as said:
        publish(source)
    assert "--platform" in said.value.hint
    assert publish(source, platform="linux/s390x").stats.files == 1


@pytest.mark.parametrize("asked", ["app:1", "docker.io/library/app:1", "docker.io/app:1"])
def test_a_docker_archive_is_asked_for_by_the_short_name_too(tmp_path, asked):
    archive = docker_archive(tmp_path / "d.tar", LAYERS, tag="docker.io/library/app:1")
    if asked == "docker.io/app:1":
        with pytest.raises(SourceInvalid, match=r"there is: docker\.io/library/app:1"):
            publish(f"docker-archive:{archive}:{asked}")
    else:
        assert publish(f"docker-archive:{archive}:{asked}").stats.files == 1


def changed_manifest(change):
    """Return a layout whose image's manifest is not as it was."""
    made = Layout()
    entry = made.image(LAYERS, CONFIG)
    manifest = json.loads(made.files[f"blobs/sha256/{entry['digest'][7:]}"])
    change(manifest)
    return made.index(made.blob(json.dumps(manifest).encode()))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.update(schemaVersion=3), "schemaVersion is 3, expected 2"),
        (lambda m: m["layers"][0].update(size=7), "its descriptor says 7"),
        (lambda m: m["config"].update(size=7), "its descriptor says 7"),
    ],
)
def test_a_manifest_that_says_what_is_not_so_is_refused(tmp_path, change, problem):
    with pytest.raises(SourceInvalid, match=problem) as said:
        publish(f"oci:{changed_manifest(change).write(tmp_path / 'layout')}")
    assert said.value.hint


@pytest.mark.parametrize("word", ["NOEQ", "=x"])
def test_a_variable_that_is_none_is_refused_when_the_image_is_built(tmp_path, word):
    made = Layout()
    made.index(made.image(LAYERS, CONFIG | {"Env": ["A=1", word]}))
    with pytest.raises(SourceInvalid, match=f"has '{word}', which is not NAME=value"):
        publish(f"oci:{made.write(tmp_path / 'layout')}")


def test_one_of_several_images_is_chosen_by_name(tmp_path):
    made = Layout()
    named = "org.opencontainers.image.ref.name"
    made.index(
        made.image(LAYERS[:1], annotations={named: "one"}),
        made.image(LAYERS, annotations={named: "two"}),
    )
    path = made.write(tmp_path / "layout")
    with pytest.raises(SourceInvalid, match="several images: one, two"):
        publish(f"oci:{path}")
    assert publish(f"oci:{path}:two").stats.files == 1
    with pytest.raises(SourceInvalid, match="no image named 'three'; there is: one, two"):
        publish(f"oci:{path}:three")


@pytest.mark.kernel
def test_gnu_tar_of_everything_mounts_as_its_directory(tmp_path):
    tree = make_rich_tree(tmp_path / "tree")
    (tree / "socket").unlink()  # tar has no sockets
    (tree / "long-link").unlink()  # GNU tar keeps no attributes of links
    archive = tmp_path / "layer.tar"
    flags = ["--format=pax", "-S", "--xattrs", "--xattrs-include=*", "--acls"]
    run(["tar", *flags, "-C", str(tree), "-cf", str(archive), "."])
    made = Layout()
    made.index(made.image([archive.read_bytes()]))
    store = memory_store()
    result = publish(f"oci:{made.write(tmp_path / 'layout')}", store)
    with mounted(result.manifest, store, tmp_path / "image") as root:
        assert described(root) == described(tree)


def damaged(made, tmp_path, change):
    path = made.write(tmp_path / "layout")
    change(path)
    return f"oci:{path}"


def flip_largest(path):
    blob = max((path / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)


def shorten_largest(path):
    blob = max((path / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    os.truncate(blob, blob.stat().st_size // 2)


def remove_largest(path):
    max((path / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size).unlink()


@pytest.mark.parametrize("change", [flip_largest, shorten_largest, remove_largest])
def test_a_damaged_blob_is_found_and_nothing_is_published(layout, tmp_path, change):
    store = memory_store()
    with pytest.raises((DigestMismatch, UserError)) as said:
        publish(damaged(layout, tmp_path, change), store)
    assert said.value.hint
    assert list(store.references.names()) == []


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_compressed_layer_with_a_flipped_byte_is_wrong_bytes(tmp_path, how):
    made = Layout()
    made.index(made.image(LAYERS[:1], CONFIG, how=how))
    with pytest.raises(IntegrityError):
        publish(damaged(made, tmp_path, flip_largest))


def test_a_layer_that_is_not_the_one_of_the_config_is_refused(tmp_path):
    archive = docker_archive(tmp_path / "docker.tar", LAYERS)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"newnew", b"evilev"))
    with pytest.raises(DigestMismatch):
        publish(f"docker-archive:{archive}")


def test_a_gzip_bomb_ends_at_the_limit(tmp_path):
    made = Layout()
    bomb = layer(member("zeros", content=bytes(32 << 20)))
    made.index(made.image([bomb]))
    with pytest.raises(LimitExceeded, match="unpacked size"):
        publish(f"oci:{made.write(tmp_path / 'layout')}", limits=Limits(layer_size=8 << 20))


@pytest.mark.kernel
def test_a_full_staging_directory_ends_the_build_and_is_left_clean(tmp_path, small_file_system):
    made = Layout()
    made.index(made.image([layer(member("zeros", content=bytes(100 << 20)))]))
    source, limits = f"oci:{made.write(tmp_path / 'layout')}", Limits(spool_reserve=0)
    with pytest.raises(StagingFull, match="no space left"):
        publish(source, staging=small_file_system, limits=limits)
    assert [path.name for path in small_file_system.iterdir()] == ["lost+found"]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_compressed_stream_that_ends_too_early_is_refused(tmp_path, how):
    archive = docker_archive(tmp_path / "docker.tar", LAYERS, how=how)
    with tarfile.open(archive) as tar:
        content = tar.extractfile("0/layer.tar").read()
    cut = archive.read_bytes().replace(content, content[:-30] + bytes(30))
    archive.write_bytes(cut)
    with pytest.raises((UserError, IntegrityError)):
        publish(f"docker-archive:{archive}")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("nowhere", "no such source"),
        ("file", "neither a directory nor a named kind of archive"),
        ("oci:nowhere", "not a directory with an OCI layout"),
        ("oci-archive:nowhere", "no such archive file"),
        ("oci-archive:file", "not a tar archive|truncated"),
        ("docker-archive:tar", "no manifest.json"),
        ("oci:", "no path after the colon"),
    ],
)
def test_what_is_no_source_is_refused_with_a_sentence(tmp_path, monkeypatch, source, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"text " * 300)
    (tmp_path / "tar").write_bytes(layer(member("a")))
    with pytest.raises(UserError, match=problem):
        publish(source)


@pytest.mark.parametrize(
    ("name", "content"),
    [("index.json", b"[1]"), ("index.json", b"\xff"), ("index.json", b'{"manifests":[{}]}')],
)
def test_documents_of_a_wrong_shape_are_refused(layout, tmp_path, name, content):
    layout.files[name] = content
    with pytest.raises(SourceInvalid):
        publish(f"oci:{layout.write(tmp_path / 'layout')}")


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.sampled_from(["", "x", "sha256:x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["manifests", "digest", "platform", "annotations", "Config", "Layers", "RepoTags"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(SHAPES)
def test_any_json_gives_a_sentence(tmp_path_factory, shape):
    root = tmp_path_factory.mktemp("any")
    content = json.dumps(shape).encode()
    (root / "index.json").write_bytes(content)
    archive = root / "docker.tar"
    archive.write_bytes(layer(member("manifest.json", content=content)))
    for source in (f"oci:{root}", f"docker-archive:{archive}", f"docker-archive:{archive}:x"):
        with pytest.raises(UserError):
            publish(source)
