"""What is published can be read again; what could not is refused, and no reference moves."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hotstart.core.digest import Digest
from hotstart.core.errors import NotFound
from hotstart.store.leased import leased
from hotstart.store.manifest import MAX_BYTES, parse_manifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store
from runtime.container_spec import ContainerSpec
from runtime.rehearsal import ExpectedGolden
from runtime.snapshot_manifest import (
    INLINE_ANSWER_BYTES,
    SnapshotTooLarge,
    publish,
    put_config,
    snapshot_config,
)
from snapshotter.golden import Answer, GoldenRequest
from tests.store import samples

NAME = ReferenceName.parse("snap:v1")


def config_of(*answers):
    """The configuration of a snapshot whose golden requests were answered so."""
    return snapshot_config(
        ContainerSpec(name="web"),
        {"args": ["/app"], "env": [], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        image_reference="app:v1",
        dump=SimpleNamespace(memory_files=list, descriptors=tuple),
        built=None,
        goldens=[ExpectedGolden(GoldenRequest(exec=("x",)), Answer(0, body)) for body in answers],
        fingerprint=SimpleNamespace(to_json=dict),
        criu_version="4.2.1",
        stop_signal="SIGTERM",
        read_ahead_kib=32,
    )


def test_a_snapshot_with_long_golden_answers_can_be_read_again(tmp_path):
    store = open_store(str(tmp_path))
    config = config_of(*[bytes(12 << 20)] * 4)
    content = replace(samples.snapshot(), config=put_config(config, store)).to_bytes()
    assert parse_manifest(content).config.data == config.to_bytes()


def test_of_a_long_answer_digest_and_length_are_kept_and_a_short_one_whole():
    short, long = b"s" * INLINE_ANSWER_BYTES, b"l" * (INLINE_ANSWER_BYTES + 1)
    kept, digested = (golden.expected for golden in config_of(short, long).goldens)
    assert (kept.body, kept.body_digest) == (short, None)
    assert (digested.body, digested.body_digest) == (None, Digest.of(long))
    assert digested.body_bytes == len(long)


def test_a_manifest_that_no_restore_would_take_is_refused_before_the_reference_moves(tmp_path):
    store = open_store(str(tmp_path))
    unreadable = replace(samples.snapshot(), annotations={"note": "x" * MAX_BYTES})
    with leased(store, ()) as writer, pytest.raises(SnapshotTooLarge, match="can be read again"):
        publish(writer, NAME, unreadable)
    with pytest.raises(NotFound):
        store.references.get(NAME)
