"""Signals as interrupts: the first unwinds, the next ones change nothing, and nohup stays nohup."""

import contextlib
import os
import signal

import pytest

from cli.interrupts import ENDING, interrupted_by


@pytest.fixture(autouse=True)
def usual():
    """Each signal as the process has it, before and after."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    after = {number: signal.signal(number, before[number]) for number in ENDING}
    assert set(after.values()) <= {signal.SIG_DFL, signal.SIG_IGN}


def tell(number):
    os.kill(os.getpid(), number)


def interrupt(number, undo):
    """Be told to end in the middle of something that is then undone."""
    with interrupted_by(), contextlib.ExitStack() as stack:
        stack.callback(undo)
        tell(number)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_unwinds_and_the_next_ones_do_not_break_that_off(number):
    undone = []

    def undo():
        for again in ENDING:
            tell(again)
        undone.append(number)

    with pytest.raises(KeyboardInterrupt):
        interrupt(number, undo)
    assert undone == [number]


def test_a_signal_that_was_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupted_by():
        tell(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_what_is_not_asked_for_is_left_alone():
    with interrupted_by([signal.SIGTERM]):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_programs_that_are_started_while_things_are_undone_do_not_inherit_deaf_ears():
    """What is ignored is inherited, what is handled is not (execve(2))."""
    handlers = []
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM, lambda: handlers.extend(map(signal.getsignal, ENDING)))
    assert len(handlers) == len(ENDING)
    assert signal.SIG_IGN not in handlers
