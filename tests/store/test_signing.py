"""Signatures: only what a trusted key signed, exactly as it signed it, is accepted."""

import os
import stat
import threading
from dataclasses import replace

import pytest

from hotstart.store.manifest import Signature, SnapshotManifest
from hotstart.store.signing import (
    KeyFileInvalid,
    NodeKey,
    PublicKey,
    SignatureForeign,
    SignatureMissing,
    SignatureWrong,
    load_trusted,
    sign,
    verify,
)
from tests.store import samples

SNAPSHOT = samples.snapshot()


@pytest.fixture
def key(tmp_path):
    return NodeKey.load_or_create(tmp_path / "keys" / "node.ed25519")


def test_a_signed_manifest_survives_its_bytes_and_verifies(key):
    signed = sign(SNAPSHOT, key)
    read = SnapshotManifest.parse(signed.to_bytes())
    assert read == signed
    assert verify(read, [key.public]) == key.public


def test_signing_again_replaces_the_signature(key, tmp_path):
    other = NodeKey.load_or_create(tmp_path / "other")
    signed = sign(sign(SNAPSHOT, other), key)
    assert signed == sign(SNAPSHOT, key)


def test_an_unsigned_manifest_is_refused(key):
    with pytest.raises(SignatureMissing, match="--trust-unsigned"):
        verify(SNAPSHOT, [key.public])


def test_a_foreign_signature_is_refused_and_named(key, tmp_path):
    other = NodeKey.load_or_create(tmp_path / "other")
    with pytest.raises(SignatureForeign, match=other.public.raw.hex()):
        verify(sign(SNAPSHOT, other), [key.public])
    with pytest.raises(SignatureForeign):
        verify(sign(SNAPSHOT, key), [])


def test_the_refusal_names_the_directory_and_the_file_to_copy_there(key, tmp_path):
    trusted = load_trusted(tmp_path / "keys" / "trusted", key.public)
    other = NodeKey.load_or_create(tmp_path / "other")
    assert verify(sign(SNAPSHOT, key), trusted) == key.public
    with pytest.raises(SignatureForeign) as refused:
        verify(sign(SNAPSHOT, other), trusted)
    assert f"{tmp_path}/keys/trusted/NAME.pub" in str(refused.value)
    assert "keys/node.pub of the root that it was made in" in str(refused.value)


def test_a_further_trusted_key_is_enough(key, tmp_path):
    other = NodeKey.load_or_create(tmp_path / "other")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "other.pub").write_bytes(other.public.to_pem())
    keys = [key.public, *load_trusted(trusted)]
    assert verify(sign(SNAPSHOT, other), keys) == other.public
    assert load_trusted(tmp_path / "none") == ()


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": None, "bundle_index": None},
        {"annotations": {"other": "annotation"}},
        {"devices": ()},
    ],
)
def test_a_manifest_changed_after_signing_is_refused(key, change):
    with pytest.raises(SignatureWrong):
        verify(replace(sign(SNAPSHOT, key), **change), [key.public])


def test_a_trusted_key_with_anothers_signature_is_refused(key, tmp_path):
    other = NodeKey.load_or_create(tmp_path / "other")
    value = sign(SNAPSHOT, other).signature.value
    forged = replace(SNAPSHOT, signature=Signature(key.public.raw, value))
    with pytest.raises(SignatureWrong):
        verify(forged, [key.public])


def test_the_key_is_made_once_and_only_for_its_owner(tmp_path):
    path = tmp_path / "keys" / "node.ed25519"
    first = NodeKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert NodeKey.load_or_create(path).public == first.public
    assert os.listdir(path.parent) == [path.name]


def test_of_two_makers_one_key_wins(tmp_path):
    path = tmp_path / "node.ed25519"
    start = threading.Barrier(6)
    keys = []

    def make():
        start.wait()
        keys.append(NodeKey.load_or_create(path).public)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 6
    assert len(set(keys)) == 1


def test_a_key_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "node.ed25519"
    NodeKey.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileInvalid, match="0640"):
        NodeKey.load_or_create(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAA\n"])
def test_files_that_are_no_keys_are_refused_and_kept(tmp_path, content):
    path = tmp_path / "node.ed25519"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileInvalid):
        NodeKey.load_or_create(path)
    with pytest.raises(KeyFileInvalid):
        PublicKey.load(path)
    assert path.read_bytes() == content


def test_a_file_that_is_no_public_key_is_trusted_by_nobody_and_stands_in_no_other_keys_way(
    tmp_path, caplog
):
    NodeKey.load_or_create(tmp_path / "private.pub")
    (tmp_path / "notes.pub").write_text("not a key")
    (tmp_path / "moved.pub").symlink_to("nowhere")
    other = NodeKey.load_or_create(tmp_path / "other")
    (tmp_path / "other.pub").write_bytes(other.public.to_pem())
    assert load_trusted(tmp_path) == (other.public,)
    assert caplog.text.count("trusted_key_left_out") == 3
