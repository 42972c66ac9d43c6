"""The ready map: shared, survives kill -9, and is believed after a power loss only with proof."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hotstart.core.digest import ChunkDigest
from hotstart.core.run import run
from hotstart.core.span import PAGE, Span
from hotstart.store.chunk_table import Chunk
from hotstart.store.format_errors import FormatVersionUnknown
from hotstart.store.packs import chunk_digest
from hotstart.store.ready_map import ReadyMap, is_complete
from hotstart.store.ready_map_header import HEADER_BYTES, current_boot_id

DEVICE_ID = "ab" * 32
BOOT, NEXT_BOOT = b"1" * 16, b"2" * 16
PAGES = 40


@pytest.fixture
def device(tmp_path):
    """A device file that holds data."""
    path = tmp_path / "x.dev"
    path.write_bytes(random.Random(1).randbytes(PAGES * PAGE))
    return path


@pytest.fixture
def path(tmp_path, device):
    return tmp_path / "x.ready"


def opened(path, boot_id=BOOT, pages=PAGES, device_id=DEVICE_ID):
    return ReadyMap.open(path, device_id, pages, boot_id=boot_id)


def test_a_new_map_is_empty_and_one_byte_per_page(path):
    with opened(path) as ready:
        assert ready.missing(0, PAGES) == 0
        assert ready.ready_pages() == 0
        assert not ready.complete
        assert not ready.needs_reverify
    assert path.stat().st_size == HEADER_BYTES + PAGES


def test_missing_names_the_first_absent_page(path):
    with opened(path) as ready:
        ready.set(0, 5)
        ready.set(6, 4)
        assert ready.missing(0, 5) == -1
        assert ready.missing(0, 10) == 5
        assert ready.missing(6, 4) == -1
        assert ready.missing(8, 10) == 10
        assert ready.missing(PAGES - 1, 5) == PAGES - 1


def test_pages_beyond_the_device_are_never_missing_and_never_set(path):
    with opened(path) as ready:
        ready.set(0, PAGES)
        assert ready.missing(PAGES - 1, 100) == -1
        with pytest.raises(ValueError, match="of a device of"):
            ready.set(PAGES - 1, 2)
        with pytest.raises(ValueError, match="of a device of"):
            ready.set(-1, 1)


def test_complete_is_true_once_every_page_is_ready_and_false_after_a_clear(path):
    with opened(path) as ready:
        ready.set(0, PAGES - 1)
        assert not ready.complete
        ready.set(PAGES - 1, 1)
        assert ready.complete
        ready.clear(3, 1)
        assert not ready.complete
        assert ready.missing(0, PAGES) == 3


def test_two_openers_share_one_map(path):
    with opened(path) as one, opened(path) as two:
        one.set(3, 2)
        assert two.missing(3, 2) == -1
        two.set(0, 3)
        assert one.missing(0, 5) == -1


def test_an_opener_does_not_cut_off_one_that_came_before_the_data(tmp_path):
    path = tmp_path / "x.ready"
    with opened(path) as early:
        (tmp_path / "x.dev").write_bytes(b"")
        with opened(path) as late:
            (tmp_path / "x.dev").write_bytes(b"data" * PAGE)
            early.set(0, 1)
            assert late.missing(0, 1) == -1


WRITER = """
import os, signal, sys
from pathlib import Path
from hotstart.store.ready_map import ReadyMap, is_complete
ready = ReadyMap.open(Path(sys.argv[1]), "ab" * 32, 40)
ready.set(10, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_has_set_stays_set(path):
    with ReadyMap.open(path, DEVICE_ID, PAGES) as ready:
        done = run([sys.executable, "-c", WRITER, str(path)], check=False, timeout_s=60)
        assert done.status == -signal.SIGKILL
        assert ready.missing(10, 5) == -1
    with ReadyMap.open(path, DEVICE_ID, PAGES) as ready:
        assert ready.ready_pages() == 5


def test_without_its_device_a_map_is_empty(path, device):
    with opened(path) as ready:
        ready.set(0, 5)
    device.unlink()
    with opened(path) as ready:
        assert ready.ready_pages() == 0


def test_with_a_new_sparse_device_a_map_is_empty(path, device):
    with opened(path) as ready:
        ready.set(0, PAGES)
        assert ready.complete
    device.unlink()
    with device.open("wb") as file:
        file.truncate(PAGES * PAGE)
    with opened(path) as ready:
        assert ready.ready_pages() == 0
        assert not ready.complete


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: b"X" + content[1:],
        lambda content: content[:24] + b"other" + content[29:],
        lambda content: content + b"\1",
        lambda content: bytes(len(content)),
    ],
)
def test_a_file_that_is_no_map_of_this_device_becomes_an_empty_map(path, damage):
    with opened(path) as ready:
        ready.set(0, PAGES)
    path.write_bytes(damage(path.read_bytes()))
    with opened(path) as ready:
        assert ready.ready_pages() == 0
        ready.set(1, 1)
    with opened(path) as ready:
        assert ready.ready_pages() == 1


def test_a_newer_version_is_refused_by_name_and_kept(path):
    opened(path).close()
    content = bytearray(path.read_bytes())
    content[8] = 9
    path.write_bytes(content)
    with pytest.raises(FormatVersionUnknown, match="ready map: version 9"):
        opened(path)
    assert path.read_bytes() == content


def test_after_a_power_loss_an_unsynced_map_is_not_believed(path):
    with opened(path) as ready:
        ready.set(0, PAGES)
    with opened(path, NEXT_BOOT) as ready:
        assert ready.ready_pages() == 0
        assert ready.needs_reverify
    with opened(path, NEXT_BOOT) as ready:
        assert not ready.needs_reverify


def test_after_a_power_loss_a_synced_map_is_believed(path, device):
    with opened(path) as ready, device.open("r+b") as file:
        ready.set(0, 7)
        ready.sync(file.fileno())
    for boot in (NEXT_BOOT, b"3" * 16):
        with opened(path, boot) as ready:
            assert ready.ready_pages() == 7
            assert not ready.needs_reverify


def test_mark_synced_covers_what_is_set(path):
    with opened(path) as ready:
        ready.set(0, 7)
        ready.mark_synced()
    with opened(path, NEXT_BOOT) as ready:
        assert ready.ready_pages() == 7


@pytest.mark.parametrize("change", ["set", "clear"])
def test_a_change_after_the_sync_makes_the_map_unbelieved(path, device, change):
    with opened(path) as ready, device.open("r+b") as file:
        ready.set(0, 7)
        ready.sync(file.fileno())
        getattr(ready, change)(6, 2)
    with opened(path, NEXT_BOOT) as ready:
        assert ready.ready_pages() == 0


def test_pages_set_while_the_sync_runs_are_not_covered(path, device, monkeypatch):
    with opened(path) as ready, device.open("r+b") as file:
        ready.set(0, 7)
        monkeypatch.setattr("hotstart.store.ready_map.os.fdatasync", lambda fd: ready.set(7, 1))
        ready.sync(file.fileno())
        monkeypatch.undo()
    with opened(path, NEXT_BOOT) as ready:
        assert ready.ready_pages() == 0
        assert ready.needs_reverify


def _complete(path, device):
    return is_complete(path, DEVICE_ID, PAGES, device=device)


def test_complete_is_told_without_opening(path, device):
    assert not _complete(path, device)
    with opened(path, boot_id=current_boot_id()) as ready:
        ready.set(0, PAGES - 1)
        assert not _complete(path, device)
        ready.set(PAGES - 1, 1)
        assert _complete(path, device)
    device.unlink()
    assert not _complete(path, device)


def test_asking_after_a_power_loss_takes_no_claims_from_the_one_who_opens(path, device):
    with opened(path) as ready:
        ready.set(0, PAGES)
    assert not _complete(path, device)
    with opened(path, NEXT_BOOT) as ready:
        assert ready.needs_reverify


def test_synced_map_of_another_boot_is_told_complete(path, device):
    with opened(path) as ready, device.open("rb") as file:
        ready.set(0, PAGES)
        ready.sync(file.fileno())
    assert _complete(path, device)


def _chunk(content, first, pages, *, good=True):
    data = content[first * PAGE : (first + pages) * PAGE]
    digest = chunk_digest(data) if good else ChunkDigest(bytes(32))
    return Chunk(first * PAGE, pages * PAGE, 0, 0, 1, False, digest)


def test_reverify_keeps_exactly_the_claimed_chunks_that_verify(path, device):
    content = device.read_bytes()
    chunks = [
        _chunk(content, 0, 4),
        _chunk(content, 4, 4, good=False),
        _chunk(content, 10, 5),
        _chunk(content, 20, 4),
        _chunk(content, 30, 10),
    ]
    with opened(path) as ready:
        ready.set(0, 22)
    read = []

    def read_device(span: Span) -> bytes:
        read.append(span)
        return content[span.offset : span.end]

    with opened(path, NEXT_BOOT) as ready:
        assert ready.reverify(read_device, chunks) == 9
        assert [page for page in range(PAGES) if ready.missing(page, 1) < 0] == [
            *range(4),
            *range(10, 15),
        ]
        assert not ready.needs_reverify
        assert len(read) == 3


def test_the_real_boot_is_the_same_boot(path):
    with ReadyMap.open(path, DEVICE_ID, PAGES) as ready:
        ready.set(0, 3)
    with ReadyMap.open(path, DEVICE_ID, PAGES) as ready:
        assert ready.ready_pages() == 3


class MapMachine(RuleBasedStateMachine):
    """The map against a set of pages, through any order of changes and reopenings."""

    directory: Path

    def __init__(self):
        super().__init__()
        self.path = self.directory / f"{os.urandom(8).hex()}.ready"
        self.path.with_suffix(".dev").write_bytes(b"data")
        self.ready = opened(self.path)
        self.expected: set[int] = set()

    @rule(first=st.integers(0, PAGES - 1), pages=st.integers(0, PAGES))
    def set(self, first, pages):
        pages = min(pages, PAGES - first)
        self.ready.set(first, pages)
        self.expected |= set(range(first, first + pages))

    @rule(first=st.integers(0, PAGES - 1), pages=st.integers(0, 5))
    def clear(self, first, pages):
        pages = min(pages, PAGES - first)
        self.ready.clear(first, pages)
        self.expected -= set(range(first, first + pages))

    @rule()
    def reopen(self):
        self.ready.close()
        self.ready = opened(self.path)

    @rule(first=st.integers(0, PAGES - 1), pages=st.integers(1, PAGES))
    def missing(self, first, pages):
        wanted = set(range(first, min(first + pages, PAGES)))
        absent = sorted(wanted - self.expected)
        assert self.ready.missing(first, pages) == (absent[0] if absent else -1)

    @invariant()
    def counts_agree(self):
        assert self.ready.ready_pages() == len(self.expected)
        assert self.ready.complete == (len(self.expected) == PAGES)

    def teardown(self):
        self.ready.close()


def test_any_order_of_changes_agrees_with_a_set_of_pages(tmp_path):
    machine = type("Machine", (MapMachine,), {"directory": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(derandomize=True, max_examples=15, stateful_step_count=20, deadline=None),
    )
