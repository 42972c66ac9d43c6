"""The one door to subprocesses."""

import subprocess
from pathlib import Path

import pytest

from hotstart.core.errors import Unsupported
from hotstart.core.run import DEVNULL, PIPE, CommandFailed, CommandTimedOut, run, spawn


def test_output_and_status_come_back():
    done = run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in", check=False)
    assert (done.status, done.stdout, done.stderr, done.text) == (3, b"in", b"err\n", "in")


def test_a_program_without_input_reads_its_end_at_once():
    assert run(["cat"], timeout_s=10).stdout == b""


def test_a_failure_says_what_failed_and_its_last_words():
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "echo first >&2; echo last >&2; exit 7"])
    assert str(caught.value) == "sh: exit status 7: last"
    assert caught.value.stderr == "first\nlast\n"


def test_no_word_is_interpreted():
    assert run(["echo", "$HOME; *"]).text == "$HOME; *\n"


def test_a_program_that_does_not_end_is_killed():
    with pytest.raises(CommandTimedOut, match="no end after"):
        run(["sleep", "60"], timeout_s=0.05)


@pytest.mark.parametrize("start", [run, spawn])
def test_a_program_that_is_not_there_is_named(start):
    with pytest.raises(Unsupported, match="no-such-program is not installed"):
        start(["no-such-program"])


def test_environment_and_directory_are_those_given(tmp_path):
    done = run(["sh", "-c", 'echo "$A"; pwd'], env={"A": "1", "PATH": "/bin"}, cwd=tmp_path)
    assert done.text.split() == ["1", str(Path(tmp_path).resolve())]


def test_a_spawned_program_belongs_to_its_caller():
    with spawn(["cat"], stdin=PIPE, stdout=PIPE, stderr=DEVNULL, new_session=True) as process:
        assert process.communicate(b"x", timeout=10) == (b"x", None)
    assert process.returncode == 0
    assert isinstance(process, subprocess.Popen)


def test_a_failure_is_told_by_the_line_that_says_error():
    """nft underlines the place last."""
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", "printf 'seen\\n1:1-2: Error: No such file\\nadd x\\n^^^\\n' >&2; exit 1"])
    assert str(caught.value) == "sh: exit status 1: 1:1-2: Error: No such file"
