"""The poller's process: asks one question over and over until the first correct answer.

Reads one JSON line from standard input (netns, address, question, interval_s, counters), moves
into that network namespace if there is one, writes ``{"polling": false}`` when it is set up, waits
for a second line (``{"deadline_s": T}``) and polls; then writes one JSON line with the times of
CLOCK_MONOTONIC, which all processes of a machine share. The link's counters are read at the
instant of the answer, before anything else can be fetched.

One connection and one request at a time; a connection that was refused or closed is tried again
after the interval. An answer with another status than 200 is no answer, a wrong vector is counted.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.link_emulator import read_counters
from bench.question import AnswerUnusable, Question, vector_of
from hotstart.kernel.namespaces import CLONE_NEWNET, enter

CONNECT_TIMEOUT_S = 0.02
"""Addresses are on this machine: who has not accepted by then dropped the SYN (no route yet)."""


@dataclass(slots=True)
class Poll:
    """What one poll has seen so far."""

    attempts: int = 0
    connected_s: float | None = None
    answered_s: float | None = None
    vector: tuple[float, ...] | None = None
    wrong_answers: int = 0
    last_problem: str = ""
    counters: list[int] = field(default_factory=list)


def ask(address: str, port: int, request: bytes, deadline_s: float, poll: Poll) -> bytes | None:
    """Send one request; return the body of a 200 answer, None if there was no such answer."""
    poll.attempts += 1
    try:
        with socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S) as connection:
            if poll.connected_s is None:
                poll.connected_s = time.monotonic()
            connection.settimeout(max(0.001, deadline_s - time.monotonic()))
            connection.sendall(request)
            return _read_answer(connection, poll)
    except OSError as err:
        poll.last_problem = str(err)
        return None


def _read_answer(connection: socket.socket, poll: Poll) -> bytes | None:
    received = bytearray()
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            poll.last_problem = "connection closed before the answer's head ended"
            return None
        received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    length = _content_length(head)
    while length is None or len(body) < length:
        part = connection.recv(65536)
        if not part:
            break
        body += part
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"] or (length is not None and len(body) < length):
        poll.last_problem = f"answer: {head.splitlines()[0]!r}, {len(body)} of {length} bytes"
        return None
    return body


def _content_length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return None


def poll_until_answer(
    address: str,
    question: Question,
    *,
    deadline_s: float,
    interval_s: float,
    counters: Path | None = None,
) -> Poll:
    """Poll until a correct answer or the deadline (CLOCK_MONOTONIC seconds)."""
    poll = Poll()
    request = question.request()
    while time.monotonic() < deadline_s:
        body = ask(address, question.port, request, deadline_s, poll)
        answered_s = time.monotonic()
        vector = None if body is None else _vector_or_none(body, poll)
        if vector is not None and question.accepts(vector):
            if counters is not None:
                poll.counters = list(read_counters(counters))
            poll.answered_s, poll.vector = answered_s, vector
            break
        if body is not None:
            poll.wrong_answers += 1
        time.sleep(interval_s)
    return poll


def _vector_or_none(body: bytes, poll: Poll) -> tuple[float, ...] | None:
    try:
        return vector_of(body)
    except AnswerUnusable as err:
        poll.last_problem = str(err)
        return None


def main() -> None:
    """Serve one poll over standard input and output."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    counters = Path(order["counters"]) if order["counters"] else None
    if order["netns"]:
        # The process is of one thread and ends with its one poll: nothing else moves with it.
        enter(order["netns"], CLONE_NEWNET)
    question = Question.from_dict(order["question"])
    os.write(1, b'{"polling": false}\n')
    line = sys.stdin.buffer.readline()
    if not line:  # called off before it began
        return
    poll = poll_until_answer(
        order["address"],
        question,
        deadline_s=json.loads(line)["deadline_s"],
        interval_s=order["interval_s"],
        counters=counters,
    )
    answer = {
        "attempts": poll.attempts,
        "connected_s": poll.connected_s,
        "answered_s": poll.answered_s,
        "vector": poll.vector,
        "wrong_answers": poll.wrong_answers,
        "last_problem": poll.last_problem,
        "counters": poll.counters,
    }
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
