"""CRIU's page maps, as bytes and as anything but."""

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshotter.dump_directory import DumpDirectory, DumpInvalid, MemoryRun, parse_pagemap

MAGIC = struct.pack("<II", 0x54564319, 0x56084025)
LAZY_PRESENT, PRESENT, PARENT = 6, 4, 1


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def entry(fields):
    body = b"".join(varint(number << 3) + varint(value) for number, value in fields.items())
    return struct.pack("<I", len(body)) + body


def pagemap(pages_id, *runs):
    """``runs``: address, pages, flags."""
    parts = [entry({1: address, 2: pages, 4: flags, 5: pages}) for address, pages, flags in runs]
    return MAGIC + entry({1: pages_id}) + b"".join(parts)


def test_runs_lie_end_to_end_and_absent_ones_take_no_room():
    content = pagemap(
        3, (0x7F0000000000, 2, LAZY_PRESENT), (0x1000, 9, PARENT), (0x5000, 1, PRESENT)
    )
    assert parse_pagemap(content, "x") == (
        3,
        (MemoryRun(0x7F0000000000, 2, 0, lazy=True), MemoryRun(0x5000, 1, 8192, lazy=False)),
    )


def test_older_dumps_count_pages_in_another_field():
    content = MAGIC + entry({1: 1}) + entry({1: 0x1000, 2: 4, 4: PRESENT})
    assert parse_pagemap(content, "x")[1][0].pages == 4


@settings(derandomize=True, max_examples=300)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: MAGIC + tail)))
def test_any_bytes_are_runs_that_lie_end_to_end_or_dump_invalid(content):
    with suppress(DumpInvalid):
        _, runs = parse_pagemap(content, "x")
        ends = [run.offset + run.pages * 4096 for run in runs]
        assert [run.offset for run in runs] == [0, *ends][: len(runs)]


@settings(derandomize=True, max_examples=60)
@given(st.integers(9, 60))
def test_a_page_map_that_is_cut_off_is_refused(length):
    content = pagemap(1, (0x7F0000000000, 2, LAZY_PRESENT), (0x5000, 1, PRESENT))
    whole = (8, 8 + 6, len(content) - 11, len(content))
    if length < len(content):
        try:
            _, runs = parse_pagemap(content[:length], "x")
        except DumpInvalid:
            return
        assert len(runs) < 2
        assert length in range(whole[0], whole[-1])


def test_processes_are_found_with_their_memory_files(tmp_path):
    (tmp_path / "pagemap-1.img").write_bytes(pagemap(1, (0x1000, 2, LAZY_PRESENT)))
    (tmp_path / "pagemap-22.img").write_bytes(pagemap(4, (0x9000, 1, PRESENT)))
    (tmp_path / "pagemap-shmem-5.img").write_bytes(b"not of a process")
    for name in ("pages-1.img", "pages-4.img"):
        (tmp_path / name).touch()
    dump = DumpDirectory(tmp_path)
    assert [(p.pid, p.file_name, p.size_bytes) for p in dump.processes()] == [
        (1, "pages-1.img", 8192),
        (22, "pages-4.img", 4096),
    ]
    assert dump.process(22).pieces() == []
    assert [(p.start, p.end, p.offset) for p in dump.process(1).pieces()] == [(0x1000, 0x3000, 0)]
    assert dump.memory_files() == ("pages-1.img", "pages-4.img")
    with pytest.raises(DumpInvalid, match="process 7"):
        dump.process(7)


def test_standard_streams_are_read_or_refused(tmp_path):
    dump = DumpDirectory(tmp_path)
    with pytest.raises(DumpInvalid):
        dump.descriptors()
    (tmp_path / "descriptors.json").write_text(json.dumps(["pipe:[1]", "pipe:[2]", "pipe:[3]"]))
    assert dump.descriptors() == ("pipe:[1]", "pipe:[2]", "pipe:[3]")
    (tmp_path / "descriptors.json").write_text("{}")
    with pytest.raises(DumpInvalid):
        dump.descriptors()
