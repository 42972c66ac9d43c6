"""The caller's side of the poller: one process per measured start, ready before the clock starts.

``FirstAnswerPoller`` owns its process. Enter it before the start that is measured (interpreter
start-up stays outside the figure), ``begin`` it at the moment the clock starts, then ``result``
blocks for the first correct answer. Leaving the context ends the process in every case.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import bench
from bench.link_emulator import LinkCount
from bench.question import Question
from hotstart.core.errors import Unavailable
from hotstart.core.run import PIPE, Process, spawn

INTERVAL_S = 0.001
SOURCE = Path(bench.__file__).parents[1]
"""Where the packages are, installed or not: python -m looks in its working directory first."""


class NoAnswer(Unavailable):
    """No correct answer came in time; ``wrong_answers`` tells how many wrong ones did."""

    def __init__(self, message: str, wrong_answers: int) -> None:
        super().__init__(message)
        self.wrong_answers = wrong_answers


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """When the first correct answer was complete; seconds of CLOCK_MONOTONIC."""

    connected_s: float
    answered_s: float
    attempts: int
    wrong_answers: int
    vector: tuple[float, ...]
    link: LinkCount | None

    @property
    def problem(self) -> str:
        """What was wrong before the first correct answer, or ""."""
        return f"{self.wrong_answers} wrong answers came first" if self.wrong_answers else ""


class FirstAnswerPoller:
    """One poll, from the namespace ``netns`` (None: this one) to ``address``."""

    def __init__(
        self,
        question: Question,
        *,
        netns: Path | None = None,
        address: str = "127.0.0.1",
        counters: Path | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self._question = question
        self._netns = netns
        self._address = address
        self._counters = counters
        self._timeout_s = timeout_s
        self._process: Process | None = None

    def __enter__(self) -> FirstAnswerPoller:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._process = spawn(
            [sys.executable, "-m", "bench.poller"],
            stdin=PIPE,
            stdout=PIPE,
            cwd=SOURCE,
            new_session=True,  # an interrupt of the terminal is the caller's to handle
        )
        self._send(
            {
                "netns": None if self._netns is None else str(self._netns),
                "address": self._address,
                "question": self._question.as_dict(),
                "interval_s": INTERVAL_S,
                "counters": None if self._counters is None else str(self._counters),
            }
        )
        self._receive()

    def call_off(self) -> None:
        """End the poll from another thread: whoever waits for its result gets Unavailable."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process, answered or not. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def begin(self) -> None:
        """Start to poll; the time-out counts from here."""
        self._send({"deadline_s": time.monotonic() + self._timeout_s})

    def result(self) -> FirstAnswer:
        """Block until the first correct answer. Raises NoAnswer at the time-out."""
        answer = self._receive()
        if answer["answered_s"] is None:
            raise NoAnswer(
                f"{self._address}:{self._question.port}: no correct answer within "
                f"{self._timeout_s:g} s ({answer['attempts']} attempts, "
                f"{answer['wrong_answers']} wrong answers; last: {answer['last_problem']})",
                answer["wrong_answers"],
            )
        return FirstAnswer(
            connected_s=answer["connected_s"],
            answered_s=answer["answered_s"],
            attempts=answer["attempts"],
            wrong_answers=answer["wrong_answers"],
            vector=tuple(answer["vector"]),
            link=LinkCount(*answer["counters"]) if answer["counters"] else None,
        )

    def _send(self, message: object) -> None:
        if self._process is None or self._process.stdin is None:
            raise Unavailable("poller: not started; enter its context first")
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        if self._process is None or self._process.stdout is None:
            raise Unavailable("poller: not started; enter its context first")
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"poller: ended with status {self._process.wait()} and no result")
        message: dict[str, Any] = json.loads(line)
        return message
