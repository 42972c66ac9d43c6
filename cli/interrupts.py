"""Signals that end a command as Ctrl-C does, so that it undoes what it has begun. Main thread only.

Python's own answer to SIGTERM and SIGHUP ends the process where it is: no ``with`` block is left,
and whatever the command had started goes on without it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupted_by(signals: Sequence[signal.Signals] = ENDING) -> Iterator[None]:
    """Have the first of ``signals`` raise KeyboardInterrupt, and the next ones change nothing.

    A terminal that closes and a service manager tell twice; the second time must not break off
    what the first began to undo. One that was ignored before (nohup) stays ignored.
    """
    told = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise KeyboardInterrupt

    # A function, and not SIG_IGN afterwards: programs inherit what is ignored (execve(2)).
    before = {number: signal.getsignal(number) for number in signals}
    taken = [number for number in signals if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
