"""Power fails at any instant: no page is ever called ready whose bytes did not reach the disk.

A disk that loses what was not synced stands in for the real one: each write makes a new version of
the 4 KiB blocks it touches, a sync makes the newest the oldest that can come back, and after a
power loss each block is, independently, any version since. Writes are cut off after any one.
"""

import mmap
import os
import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.span import PAGE
from hotstart.store import ready_map
from hotstart.store.chunk_table_layout import Chunk
from hotstart.store.packs import chunk_digest
from hotstart.store.ready_map import ReadyMap, is_complete
from hotstart.store.ready_map_header import encode_header

PAGES = 2 * PAGE
"""Enough for page bytes in two blocks of the map, which reach the disk one without the other."""
DEVICE_ID = "ab" * 32
STEP = PAGE // 2
"""Pages that are filled at once; each step holds one page of data, the rest are holes' zeros."""


class PowerLost(Exception):
    """The machine stopped here."""


class Disk:
    """Blocks of two files with every version that may come back after a power loss."""

    def __init__(self, stops_after):
        self._left = stops_after
        self.versions = {}

    def write(self, name, block, content):
        """One block changes in the page cache, from where it may be written back at any time."""
        self._tick()
        self.versions.setdefault((name, block), [bytes(PAGE)]).append(bytes(content))

    def synced(self, name, blocks):
        """What was written of these blocks is on the disk."""
        for block in blocks:
            held = self.versions.get((name, block))
            if held is not None:
                self._tick()  # one after the other: power may fail between two
                del held[:-1]

    def _tick(self):
        if self._left == 0:
            raise PowerLost
        self._left -= 1

    def after_loss(self, choose):
        """Return {(name, block): content}; ``choose`` picks one of some versions."""
        return {key: choose(held) for key, held in sorted(self.versions.items())}


class LossyMap(mmap.mmap):
    """A mapped file whose changes go to the disk too, block by block."""

    disk = None

    def __setitem__(self, at, value):
        super().__setitem__(at, value)
        start, stop, _ = at.indices(len(self)) if isinstance(at, slice) else (at, at + 1, 1)
        for block in range(start // PAGE, -(-stop // PAGE)):
            self._note(block)

    def _note(self, block):
        content = self[block * PAGE : (block + 1) * PAGE]
        self.disk.write("map", block, content.ljust(PAGE, b"\0"))

    def flush(self, offset=0, size=None):
        size = len(self) - offset if size is None else size
        self.disk.synced("map", range(offset // PAGE, -(-(offset + size) // PAGE)))


class Machine:
    """A device file and its ready map on a disk that may lose power."""

    def __init__(self, directory: Path, monkeypatch, stops_after):
        self.disk = Disk(stops_after)
        self.during_sync = None
        self.path = directory / "x.ready"
        self.device = directory / "x.dev"
        self.path.unlink(missing_ok=True)
        self.device.write_bytes(b"\1" * PAGE)  # holds data: the map is believed at all
        monkeypatch.setattr(LossyMap, "disk", self.disk)
        monkeypatch.setattr(ready_map.mmap, "mmap", LossyMap)
        monkeypatch.setattr(os, "fdatasync", self._sync_device)

    def _sync_device(self, _fd):
        self.disk.synced("dev", [block for name, block in self.disk.versions if name == "dev"])
        during, self.during_sync = self.during_sync, None
        if during is not None:
            during()

    def open(self, boot):
        ready = ReadyMap.open(self.path, DEVICE_ID, PAGES, boot_id=boot)
        self.disk.versions.setdefault(
            ("map", 0), [bytes(PAGE), encode_header(DEVICE_ID, PAGES, boot)]
        )
        return ready

    def fill(self, ready, step):
        """As Device.fill does: the bytes, then the word that they are there."""
        self.disk.write("dev", step, content_of(step))
        ready.set(step * STEP, STEP)

    def clear(self, ready, step):
        """As an eviction does."""
        ready.clear(step * STEP, STEP)
        self.disk.write("dev", step, bytes(PAGE))


def content_of(step):
    return random.Random(step).randbytes(PAGE)


STEPS = PAGES // STEP
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), st.integers(0, STEPS - 1)),
        st.tuples(st.just("clear"), st.integers(0, STEPS - 1)),
        st.tuples(st.just("fill during sync"), st.integers(0, STEPS - 1)),
        st.tuples(st.just("sync"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=14,
)


def run_until_loss(machine, actions):
    """Carry out actions until power fails; then the boot is over."""
    try:
        ready = machine.open(b"1" * 16)
        for action, step in actions:
            match action:
                case "fill":
                    machine.fill(ready, step)
                case "clear":
                    machine.clear(ready, step)
                case "sync":
                    ready.sync(-1)
                case "fill during sync":
                    machine.during_sync = partial(machine.fill, ready, step)
                    ready.sync(-1)
                case "reopen":
                    ready.close()
                    ready = machine.open(b"1" * 16)
    except PowerLost:
        pass


def come_back(machine, choose):
    """Put on the disk what the loss has left; return the data by step."""
    left = machine.disk.after_loss(choose)
    with machine.path.open("r+b") as file:
        size = machine.path.stat().st_size
        for (name, block), content in left.items():
            if name == "map":
                file.seek(block * PAGE)
                file.write(content[: max(0, size - block * PAGE)])
    machine.disk._left = -1  # power is back, for good
    return {step: left.get(("dev", step), bytes(PAGE)) for step in range(STEPS)}


def vouched(ready):
    return [step for step in range(STEPS) if ready.missing(step * STEP, STEP) < 0]


def check(machine, choose):
    data = come_back(machine, choose)
    right = {step for step in range(STEPS) if data[step] == content_of(step)}
    whole = is_complete(machine.path, DEVICE_ID, PAGES, device=machine.device)
    assert not whole or len(right) == STEPS
    with machine.open(b"2" * 16) as ready:
        assert set(vouched(ready)) <= right, "a page is called ready and its bytes are not there"
        if ready.needs_reverify:
            ready.reverify(lambda span: data[span.offset // PAGE // STEP], chunks())
        assert set(vouched(ready)) <= right


def chunks():
    for step in range(STEPS):
        digest = chunk_digest(content_of(step))
        yield Chunk(step * STEP * PAGE, STEP * PAGE, 0, 0, PAGE, raw=True, digest=digest)


def lose_power(directory, actions, stops_after, choose):
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(directory, patch, stops_after)
        run_until_loss(machine, actions)
        check(machine, choose)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("disk")


@settings(max_examples=120, deadline=None, derandomize=True)
@given(actions=ACTIONS, stops_after=st.integers(0, 60), draw=st.data())
def test_no_page_is_called_ready_whose_bytes_are_not_there(directory, actions, stops_after, draw):
    lose_power(
        directory,
        actions,
        stops_after,
        lambda held: held[draw.draw(st.integers(0, len(held) - 1))],
    )


SHORT = [("fill", 0), ("fill", 2), ("sync", 0), ("fill", 1), ("sync", 0)]
BESIDE = [("fill", 0), ("fill during sync", 1), ("fill during sync", 2), ("sync", 0)]
EVICTED = [("fill", 0), ("fill", 2), ("sync", 0), ("clear", 0), ("fill", 1), ("sync", 0)]


def every_loss(directory, actions):
    """Try every instant with every block at its oldest, at its newest, and at random in between."""
    for stops_after in range(30):
        for seed in range(8):
            lose_power(directory, actions, stops_after, random.Random(seed).choice)
        for one in (0, -1):
            lose_power(directory, actions, stops_after, lambda held, one=one: held[one])


@pytest.mark.parametrize(
    "actions", [SHORT, BESIDE, EVICTED], ids=["filled", "beside a sync", "evicted"]
)
def test_power_may_fail_after_any_write(directory, actions):
    every_loss(directory, actions)


def recorded_first(self, device_fd):
    self._record(self._body())
    os.fdatasync(device_fd)


def cleared_without_a_flush(self, first, pages):
    start = ready_map.HEADER_BYTES + first
    self._map[start : start + pages] = bytes(pages)


@pytest.mark.parametrize(
    ("method", "wrong", "actions"),
    [("sync", recorded_first, SHORT), ("clear", cleared_without_a_flush, EVICTED)],
    ids=["map before data", "cleared in memory only"],
)
def test_the_disk_finds_out_a_wrong_order(directory, monkeypatch, method, wrong, actions):
    monkeypatch.setattr(ReadyMap, method, wrong)
    with pytest.raises(AssertionError, match="called ready"):
        every_loss(directory, actions)
