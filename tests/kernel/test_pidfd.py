"""Processes by identity: an ended one is never mistaken for another, a zombie counts as ended."""

import os
import signal
import threading

import pytest

from hotstart.core.run import spawn
from hotstart.kernel.pidfd import (
    ProcessIdentity,
    of_this_boot,
    opened,
    recall,
    remember,
    send_signal,
    wait,
)

pytestmark = pytest.mark.kernel


@pytest.fixture
def sleeper():
    process = spawn(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_running_process_has_an_identity(sleeper):
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity == ProcessIdentity(sleeper.pid, identity.start_ticks)
    assert identity.alive
    assert not ProcessIdentity(sleeper.pid, identity.start_ticks + 1).alive


def test_name_with_parentheses_does_not_confuse(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    process = spawn([str(program), "60"])
    try:
        assert ProcessIdentity.of(process.pid).alive
    finally:
        process.kill()
        process.wait()


def test_wait_returns_at_the_end_though_nobody_has_reaped(sleeper):
    identity = ProcessIdentity.of(sleeper.pid)
    assert not wait(identity, 0)
    assert send_signal(identity, signal.SIGKILL)
    assert wait(identity, 20)
    assert os.path.exists(f"/proc/{sleeper.pid}")  # a zombie: it is our child
    assert not identity.alive
    assert ProcessIdentity.of(sleeper.pid) is None


def test_wait_wakes_up_while_waiting(sleeper):
    identity = ProcessIdentity.of(sleeper.pid)
    timer = threading.Timer(0.05, sleeper.kill)
    timer.start()
    assert wait(identity)
    timer.join()


def test_signal_to_an_ended_process_reaches_nobody(sleeper):
    stale = ProcessIdentity(sleeper.pid, 1)
    assert not send_signal(stale, signal.SIGKILL)
    assert ProcessIdentity.of(sleeper.pid).alive
    with opened(stale) as fd:
        assert fd is None


def test_who_was_written_down_is_found_again(sleeper, tmp_path):
    identity = ProcessIdentity.of(sleeper.pid)
    remember(identity, tmp_path / "process")
    assert recall(tmp_path / "process") == identity
    assert of_this_boot(tmp_path / "process")
    assert [path.name for path in tmp_path.iterdir()] == ["process"]


def test_who_was_written_down_before_a_reboot_is_nobody(sleeper, tmp_path):
    identity = ProcessIdentity.of(sleeper.pid)
    file = tmp_path / "process"
    file.write_text(f"{identity.pid} {identity.start_ticks} 01234567-89ab-cdef-0123-456789abcdef\n")
    assert recall(file) is None
    assert not of_this_boot(file)


@pytest.mark.parametrize("text", ["", "\0\0\0", "123", "123 456", "1 x y", None])
def test_what_the_power_took_names_nobody(tmp_path, text):
    file = tmp_path / "process"
    if text is not None:
        file.write_text(text)
    assert recall(file) is None
    assert not of_this_boot(file)


def test_one_that_had_ended_already_is_written_down_as_nobody(tmp_path):
    remember(None, tmp_path / "process")
    assert recall(tmp_path / "process") is None
    assert of_this_boot(tmp_path / "process")
