"""How long a chunk stays in quarantine, and how the patience is set."""

import pytest

from hotstart.core.digest import ChunkDigest
from hotstart.core.errors import UserError
from lazyfs import quarantine
from lazyfs.fill_engine import PATIENCE_S
from lazyfs.patience import patience_s
from lazyfs.quarantine import QUARANTINE_S, Quarantine

CHUNK = ChunkDigest(bytes(32))


def test_a_chunk_is_let_out_when_its_time_is_over():
    now = [5.0]
    kept = Quarantine(lambda: now[0])
    assert kept.left_s(CHUNK) == 0
    kept.put(CHUNK)
    now[0] += QUARANTINE_S - 1
    assert kept.left_s(CHUNK) == 1
    now[0] += 1
    assert kept.left_s(CHUNK) == 0
    assert kept.lift() == 0


def test_of_too_many_chunks_the_oldest_is_let_out(monkeypatch):
    monkeypatch.setattr(quarantine, "KEPT", 2)
    kept = Quarantine()
    chunks = [ChunkDigest(bytes([n]) * 32) for n in range(3)]
    for chunk in chunks:
        kept.put(chunk)
    assert [kept.left_s(chunk) > 0 for chunk in chunks] == [False, True, True]


def test_the_patience_is_a_number_of_seconds_or_refused():
    assert patience_s({}) == patience_s({"HOTSTART_PATIENCE": ""}) == PATIENCE_S
    assert patience_s({"HOTSTART_PATIENCE": "2.5"}) == 2.5


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_what_is_no_patience_is_refused_by_name(text):
    with pytest.raises(UserError, match="HOTSTART_PATIENCE"):
        patience_s({"HOTSTART_PATIENCE": text})
