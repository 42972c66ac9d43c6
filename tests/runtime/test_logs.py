"""conmon's log files, read back; without conmon."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.container_directory import ContainerDirectory
from runtime.logs import KEPT_PIECES, LogLine, last_lines, parse_line, pieces, read_log, rotate

_STAMP = "2026-11-24T06:11:25.356540962+00:00"


@pytest.fixture
def directory(tmp_path):
    directory = ContainerDirectory(tmp_path / "one")
    directory.path.mkdir()
    return directory


def _write(path, *texts, stream="stdout", tag="F"):
    with path.open("a") as file:
        file.writelines(f"{_STAMP} {stream} {tag} {text}\n" for text in texts)


def _new_piece(directory):
    """What conmon does when the log is full."""
    fresh = directory.path / "log.tmp"
    fresh.touch()
    fresh.rename(directory.log)


def test_line_is_read_to_the_nanosecond():
    line = parse_line(f"{_STAMP} stderr F a  b ".encode())
    assert line == LogLine(1795500685356540962, "stderr", b"a  b \n")
    assert parse_line(f"{_STAMP} stdout P part".encode()).data == b"part"


@pytest.mark.parametrize(
    "text", ["", "x", f"{_STAMP} stdout", f"{_STAMP} other F x", "- stdout F x"]
)
def test_damaged_lines_are_left_out(text):
    assert parse_line(text.encode()) is None


@given(st.binary(max_size=40), st.integers(0, 60))
def test_a_line_of_any_bytes_is_read_or_left_out(noise, at):
    """Noise alone, and in the place of a part of a good line."""
    good = f"{_STAMP} stdout F text".encode()
    for line in (noise, good[:at] + noise + good[at + len(noise) :]):
        read = parse_line(line)
        assert read is None or (
            read.stream in ("stdout", "stderr") and line.endswith(read.data.removesuffix(b"\n"))
        )


def test_pieces_are_read_in_the_order_they_were_written(directory):
    number = 0
    for _ in range(KEPT_PIECES):
        _write(directory.log, number, number + 1)
        rotate(directory)
        _new_piece(directory)
        assert rotate(directory)
        number += 2
    _write(directory.log, number)
    assert [line.data for line in read_log(directory)] == [b"%d\n" % n for n in range(number + 1)]


def test_only_so_many_pieces_are_kept(directory):
    for number in range(KEPT_PIECES + 4):
        _write(directory.log, number)
        rotate(directory)
        _new_piece(directory)
        rotate(directory)
    assert len(pieces(directory)) == KEPT_PIECES + 1
    assert next(read_log(directory)).data == b"4\n"


def test_log_that_is_not_full_stays(directory):
    assert not rotate(directory)
    _write(directory.log, "a")
    assert not rotate(directory)
    assert not rotate(directory)
    assert [path.name for path in pieces(directory)] == ["log.held"]
    assert os.path.samefile(directory.log, directory.path / "log.held")


def test_parts_are_joined_to_lines(directory):
    _write(directory.log, "be", tag="P")
    _write(directory.log, "error", stream="stderr")
    _write(directory.log, "gin", "next")
    _write(directory.log, "open", tag="P")
    assert last_lines(directory) == ["error", "begin", "next", "open"]


def test_tail_counts_lines_and_not_parts(directory):
    _write(directory.log, "one")
    _write(directory.log, "tw", tag="P")
    _write(directory.log, "o", "three")
    assert [line.data for line in read_log(directory, tail=2)] == [b"tw", b"o\n", b"three\n"]


def test_follow_sees_what_comes_through_rotation(directory):
    _write(directory.log, "first")
    rotate(directory)
    steps = iter(["write", "rotate", "write again", "end"])

    def going():
        step = next(steps)
        if step.startswith("write"):
            _write(directory.log, step)
        elif step == "rotate":
            _new_piece(directory)
            rotate(directory)
        return step != "end"

    data = [line.data for line in read_log(directory, follow=going)]
    assert data == [b"first\n", b"write\n", b"write again\n"]


def test_container_that_wrote_nothing_has_an_empty_log(directory):
    assert list(read_log(directory)) == []
    assert last_lines(directory) == []
