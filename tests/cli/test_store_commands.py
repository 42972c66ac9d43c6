"""Commands that work on the store alone: build, images, inspect, verify, trace, rm."""

import errno
import json
import os
from pathlib import Path

import pytest

from cli import build_cmd
from cli import main as cli_main
from cli.settings import Settings
from cli.stored import load
from cli.verification import Verifier
from hotstart.core.span import pages_of
from hotstart.store import media_types
from hotstart.store.descriptor import Descriptor
from hotstart.store.directory import DirectoryReferences
from hotstart.store.ready_map import ReadyMap
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store
from hotstart.store.trace import Trace, TraceSpan
from image_builder.build import build
from tests.fakes.built_images import bring_home
from tests.fakes.memory_store import memory_store
from tests.image_builder.archives import Layout, layer, member
from tests.image_builder.last_pack import without_its_last_pack


@pytest.fixture
def call(tmp_path, capsys):
    """Run one command line on a store of the test's own; return status, stdout, stderr."""

    def run(*words):
        status = cli_main.run(["--root", str(tmp_path / "root"), *words], Settings())
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "app").write_bytes(b"#!/bin/true\n" * 3000)
    (tree / "noise").write_bytes(os.urandom(300_000))
    return tree


@pytest.fixture
def built(call, tree):
    status, out, _ = call("build", str(tree), "-t", "team/app:v1", "--cmd", "/bin/app", "--cmd", "")
    assert status == 0
    return out.strip()


class Events:
    """A progress sink that keeps everything."""

    def __init__(self):
        self.seen = []

    def update(self, event):
        self.seen.append(event)


def blobs(tmp_path):
    return sorted((tmp_path / "root" / "store" / "blobs" / "sha256").rglob("*"))


def test_build_prints_the_digest_and_inspect_finds_it(call, built):
    status, out, _ = call("inspect", "team/app:v1", "--json")
    document = json.loads(out)
    assert (status, document["digest"], document["kind"]) == (0, built, "image")
    assert document["config"]["config"]["Cmd"] == ["/bin/app", ""]
    assert document["devices"][0]["chunks"] > 0


def test_a_build_whose_last_pack_finds_no_room_says_so_and_names_nothing(
    call, tree, tmp_path, monkeypatch
):
    manifest = build(str(tree), memory_store(), reference="a:1").manifest
    usual = build_cmd.open_store
    with monkeypatch.context() as patched:
        patched.setattr(
            build_cmd, "open_store", lambda url: without_its_last_pack(usual(url), manifest)
        )
        status, out, err = call("build", str(tree), "-t", "team/app:v1")
    assert (status, out) == (100, "")
    sentence = err.strip().splitlines()[-1]
    assert "no space left in the store" in sentence
    assert "team/app" not in call("images")[1]
    store = tmp_path / "root" / "store"
    assert list((store / "staging").iterdir()) == list((store / "leases").iterdir()) == []
    assert call("build", str(tree), "-t", "team/app:v1")[0] == 0
    assert call("verify")[0] == 0


def test_the_same_tree_has_the_same_digest(call, built, tree):
    again = call("build", str(tree), "-t", "other:v1", "--cmd", "/bin/app", "--cmd", "")
    assert again[1].strip() == built


def test_images_lists_names_and_kinds(call, built):
    status, out, _ = call("images", "--json")
    (row,) = json.loads(out)["images"]
    assert (status, row["reference"], row["kind"]) == (0, "team/app:v1", "image")


def test_verify_accepts_what_build_wrote(call, built):
    status, out, _ = call("verify", "team/app:v1", "--json")
    assert status == 0
    assert json.loads(out)["verified"]["problems"] == []


def test_verify_finds_a_flipped_byte_in_any_object(call, built, tmp_path):
    files = [path for path in blobs(tmp_path) if path.is_file()]
    assert len(files) == 5  # manifest, config, bootstrap, chunk table, pack
    for path in files:
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            path.chmod(0o644)
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            status, _, err = call("verify", "team/app:v1")
            assert (status, "digest is" in err) == (104, True), (path.name, place, err)
        path.write_bytes(content)
    assert call("verify", "team/app:v1")[0] == 0


def test_verify_reads_what_gc_has_left_of_a_pack(call, built, tree, tmp_path):
    for number in range(3):
        (tree / f"more-{number}").write_bytes(os.urandom(300_000))
    call("build", str(tree), "-t", "team/app:v1")
    for number in range(3):
        (tree / f"more-{number}").unlink()
    assert call("build", str(tree), "-t", "left", "--base", "team/app:v1")[0] == 0
    call("rm", "team/app:v1", "--image")
    status, out, _ = call("gc", "--grace", "0", "--json")
    assert json.loads(out)["gc"]["rewritten"]["packs"] == 1
    status, out, _ = call("verify", "left", "--json")
    assert (status, json.loads(out)["verified"]["problems"]) == (0, [])
    (relocation,) = (tmp_path / "root/store/references/hotstart.relocation").rglob("latest")
    for path in blobs(tmp_path):
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert call("verify", "left")[0] == 104, path
        path.write_bytes(content)
    assert call("rm", "hotstart.relocation/" + relocation.parts[-3])[0] == 100
    relocation.unlink()
    status, _, err = call("verify", "left")
    assert (status, "no blob" in err) == (104, True), err


def test_verify_of_an_image_needs_no_keys(call, built, monkeypatch):
    """Only root may read them, and only a snapshot is signed."""

    def refuse(root):
        raise AssertionError("the keys were read")

    monkeypatch.setattr("cli.verify_cmd.trusted_keys", refuse)
    assert call("verify", "team/app:v1")[0] == 0


def test_verify_finds_a_flipped_byte_in_the_reference(call, built, tmp_path):
    reference = tmp_path / "root/store/references/team/app/_tags/v1"
    content = reference.read_bytes()
    place = content.index(b"sha256:") + 10
    reference.chmod(0o644)
    other = b"1" if content[place : place + 1] == b"0" else b"0"
    reference.write_bytes(content[:place] + other + content[place + 1 :])
    assert call("verify", "team/app:v1")[0] != 0


def test_verify_names_a_missing_object(call, built, tmp_path):
    biggest = max((p for p in blobs(tmp_path) if p.is_file()), key=lambda p: p.stat().st_size)
    biggest.unlink()
    status, _, err = call("verify", "team/app:v1")
    assert status == 104
    assert err.count(f"no blob sha256:{biggest.name}") == 1


DAMAGED = {
    "cut off": lambda content: content[:-9],
    "of the future": lambda content: content.replace(b'"version":1', b'"version":7'),
    "no text": lambda content: b"\xff" * 20,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_rm_removes_a_reference_that_cannot_be_read_and_gc_goes_on(call, built, tmp_path, damage):
    call("build", str(tmp_path / "tree"), "-t", "other:v1")
    path = tmp_path / "root/store/references/team/app/_tags/v1"
    path.write_bytes(damage(path.read_bytes()))
    status, _, err = call("gc")
    assert (status, "reference team/app:v1" in err) == (104, True)
    status, out, err = call("rm", "team/app:v1")
    assert (status, out) == (0, "team/app:v1\n")
    assert "cannot be read" in err
    assert call("rm", "team/app:v1")[0] == 101
    assert call("gc")[0] == 0
    assert call("verify", "other:v1")[0] == 0


def test_rm_leaves_a_damaged_reference_that_was_replaced_meanwhile(
    call, built, tmp_path, monkeypatch
):
    path = tmp_path / "root/store/references/team/app/_tags/v1"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    remove = DirectoryReferences.remove

    def too_late(*arguments):
        path.write_bytes(good)
        remove(*arguments)

    monkeypatch.setattr(DirectoryReferences, "remove", too_late)
    assert call("rm", "team/app:v1")[0] == 102
    assert call("inspect", "team/app:v1")[0] == 0


def test_rm_removes_the_name_only(call, built):
    assert call("rm", "team/app:v1")[0] == 0
    assert call("inspect", "team/app:v1")[0] == 101
    assert call("rm", "team/app:v1", "--image")[0] == 101


def test_rm_of_an_unknown_name_says_where_it_looked(call, built, tmp_path):
    status, _, err = call("rm", "nothing")
    assert status == 101
    assert f"neither a container of {tmp_path / 'root'} nor a reference of file://" in err
    assert "see hotstart ps and hotstart images" in err


def test_rm_of_a_name_that_is_both_asks_which(call, built, tree, tmp_path):
    call("build", str(tree), "-t", "app")
    (tmp_path / "root" / "containers" / "app").mkdir(parents=True)
    status, _, err = call("rm", "app")
    assert status == 102
    assert "say which: --container or --image" in err


@pytest.mark.parametrize("name", ["web", "web-"])
def test_rm_of_a_container_needs_no_store(call, name, tmp_path):
    """A container may have a name that no reference can have."""
    (tmp_path / "root" / "containers" / name).mkdir(parents=True)
    status, _, err = call("rm", name)
    assert status == 101  # no agent has ever run for this root
    assert f"no container {name}" in err
    assert not (tmp_path / "root" / "store").exists()


def test_progress_of_verify_ends_at_its_total(built, tmp_path):
    store = open_store(f"file://{tmp_path}/root/store")
    name = ReferenceName.parse("team/app:v1")
    image = store.references.get(name).target.digest
    trace = Trace(("a" * 64,), (TraceSpan(0, 0, 4, 1),)).encode()
    descriptor = Descriptor.of(media_types.TRACE, trace)
    store.blobs.put(descriptor.digest, trace)
    store.references.swap(ReferenceName.trace_of(image), descriptor, None)
    events = Events()
    result = Verifier(store, None, events).check(name)
    assert result.problems == ()
    assert all(event.done <= event.total for event in events.seen if event.total)
    *_, before, last = events.seen
    assert before.done == before.total == last.done == last.total == result.read_bytes
    assert last.finished


def test_trace_says_that_nothing_is_recorded(call, built):
    status, _, err = call("trace", "team/app:v1")
    assert status == 101
    assert "no start of this image is recorded" in err


@pytest.mark.parametrize("golden", ["none.json", "directory", "latin"])
def test_a_golden_request_that_cannot_be_read_is_named(call, golden, tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin").write_bytes(b'"caf\xe9"')
    path = tmp_path / golden
    status, _, err = call("snapshot", "web", "-t", "x:v1", "--golden", str(path))
    assert status == (101 if golden == "none.json" else 100)
    assert str(path) in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/nonexistent", 101),
        ("oci:/nonexistent", 101),
        ("oci-archive:/nonexistent:v1", 101),
        ("weird:thing", 101),
        ("/dev/null", 100),
        ("oci-archive:/", 100),
    ],
)
def test_a_source_that_is_none_is_refused_and_makes_nothing(call, source, expected, tmp_path):
    status, _, err = call("build", source, "-t", "x:v1")
    assert status == expected
    assert len(err.strip().splitlines()) == 1
    assert not blobs(tmp_path)


def test_an_unknown_store_is_a_sentence(call):
    status, _, err = call("--store", "ftp://host/x", "images")
    assert status == 100
    assert "unknown kind of store" in err


def test_who_may_not_look_into_the_root_gets_a_sentence(call, built, tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for name in ("exists", "is_dir"):
        usual = getattr(Path, name)
        monkeypatch.setattr(
            Path,
            name,
            lambda path, usual=usual: (
                refuse(path) if path.parts[-1] in ("state.db", "web") else usual(path)
            ),
        )
    for words, expected in ((("ps",), 100), (("rm", "web"), 101)):
        status, _, err = call(*words)
        assert status == expected
        assert len(err.strip().splitlines()) == 1


@pytest.fixture
def local(call, built, tmp_path):
    """The image's device, all of it in the cache; no agent ever ran. Returns the device file."""
    cache = tmp_path / "root" / "cache" / "devices"
    cache.mkdir(parents=True)
    store = open_store(str(tmp_path / "root" / "store"))
    manifest = load(store, ReferenceName.parse("team/app:v1")).manifest
    (device,) = manifest.devices
    (whole,) = bring_home(manifest, store, tmp_path / "home").devices
    path = cache / f"{device.device_id}.dev"
    path.write_bytes(whole.read_bytes())
    pages = pages_of(device.size_bytes)
    with ReadyMap.open(path.with_suffix(".ready"), device.device_id, pages) as ready:
        ready.set(0, pages)
    return path


@pytest.mark.parametrize("words", [("verify", "team/app:v1"), ("verify",)])
def test_verify_repairs_the_cache_and_says_so_by_its_status(call, local, words):
    good = local.read_bytes()
    assert call(*words)[0] == 0
    local.write_bytes(b"x" * 50 + good[50:])
    assert call(*words, "--no-cache")[0] == 0
    status, out, _ = call(*words, "--json")
    assert status == 108
    assert json.loads(out)["cache"]["repaired"] == 1
    assert local.read_bytes() == good
    status, out, _ = call(*words)
    assert status == 0
    assert "all as they should be" in out


def test_verify_fails_when_neither_store_nor_cache_is_right(call, local, tmp_path):
    for path in blobs(tmp_path):
        if path.stat().st_size > 250_000:
            path.unlink()
    local.write_bytes(b"x" * 50 + local.read_bytes()[50:])
    status, _, err = call("verify", "team/app:v1")
    assert status == 104
    assert "1 dropped" in err


def blob_of(tmp_path, digest):
    return tmp_path / "root" / "store" / "blobs" / "sha256" / str(digest).removeprefix("sha256:")


def test_a_truncated_chunk_table_is_wrong_bytes_to_inspect(call, built, tmp_path):
    store = open_store(str(tmp_path / "root" / "store"))
    (device,) = load(store, ReferenceName.parse("team/app:v1")).manifest.devices
    table = blob_of(tmp_path, device.table.digest)
    table.chmod(0o644)
    os.truncate(table, 40)
    status, _, err = call("inspect", "team/app:v1")
    assert status == 104
    assert f"blob {device.table.digest} has no bytes" in err


def test_a_manifest_that_is_missing_is_a_problem_to_verify_as_any_blob_is(call, built, tmp_path):
    blob_of(tmp_path, built).unlink()
    status, _, err = call("verify", "team/app:v1")
    assert status == 104
    assert "manifest of team/app:v1: " in err
    assert call("verify", "team/none:v1")[0] == 101


def test_an_archive_that_is_there_and_wrong_is_not_called_missing(call, tmp_path):
    made = Layout()
    made.index(made.image([layer(member("app"))], {"Cmd": "/app"}))
    status, _, err = call("build", f"oci-archive:{made.archive(tmp_path / 'i.tar')}", "-t", "a:1")
    assert status == 100
    assert "Cmd of the image's config is not a list of texts" in err
