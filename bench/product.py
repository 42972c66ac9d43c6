"""Hotstart's own paths, started by its command through an agent, exactly as a user starts them.

A warm node is one agent for all rounds; an empty node is a fresh agent with an empty root for each
start, ready before the clock starts, as a daemon is. The clock starts when the agent has the
request, the command's own wall time stands beside it. The published port is polled from the host,
like any client of the container. A restore may never fall back to a cold start here: that would
be measured as a restore.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from bench import command
from bench.bench_agent import BenchAgent, remove_container
from bench.command import CommandStart
from bench.first_answer import FirstAnswer, FirstAnswerPoller
from bench.link_emulator import LinkEmulator
from bench.page_cache import PageCache
from bench.question import Question
from bench.samples import Sample
from bench.store_access import StoreAccess
from hotstart.core.errors import HotstartError


class WrongRoute(HotstartError):
    """A start through the agent was not the kind of start that was to be measured."""


Node: TypeAlias = Callable[[], AbstractContextManager[BenchAgent]]
"""Gives the agent for one start: the same one each time, or a fresh one."""


def warm_node(running: BenchAgent) -> Node:
    """Return a node that stays: each start finds what earlier ones have left."""

    return lambda: nullcontext(running)


def empty_node(directory: Path, store: StoreAccess, node_key: Path) -> Node:
    """Return a node that is new, and knows nothing but its key, for each start."""
    started = 0

    def node() -> BenchAgent:
        nonlocal started
        started += 1
        return BenchAgent(directory / f"n{started}", store, node_key)

    return node


Verb = Literal["run", "restore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductPath:
    """One measured path through an agent."""

    name: str
    node: Node
    verb: Verb
    reference: str
    question: Question
    ready: str | None = None
    reference_of_round: Callable[[int], str] | None = None
    """Another reference each round; None: ``reference``."""
    pull_first: bool = False
    phase: str = ""
    """What tells the wanted kind of start from others; "": any will do."""
    emptied: PageCache | None = None
    link: LinkEmulator | None = None
    timeout_s: float = 120.0

    def measure(self, round_number: int) -> Sample:
        """Start once; see ``bench.rounds.MeasuredPath``."""
        if self.reference_of_round is not None:
            fixed = replace(
                self, reference=self.reference_of_round(round_number), reference_of_round=None
            )
            return fixed.measure(round_number)
        port = free_port()
        question = replace(self.question, port=port)
        counters = None if self.link is None else self.link.counters
        with (
            self.node() as running,
            FirstAnswerPoller(question, counters=counters, timeout_s=self.timeout_s) as poller,
        ):
            if self.emptied is not None:
                self.emptied.drop()
            before = 0 if self.link is None else self.link.count().bytes_down
            poller.begin()
            try:
                pull_ms = self._pull(running)
                started = command.start(
                    running.root, running.store, self._words(port), timeout_s=self.timeout_s
                )
                answer = poller.result()
            finally:
                remove_container(running.client, container_name(port))
        self._check(started)
        fetched = started.fetched_bytes if answer.link is None else answer.link.bytes_down - before
        return self._sample(round_number, started, answer, pull_ms, fetched)

    def _sample(
        self,
        round_number: int,
        started: CommandStart,
        answer: FirstAnswer,
        pull_ms: float,
        fetched_bytes: int,
    ) -> Sample:
        """Put the sample together. A pull counts from its own request; between it and the start
        lies the start-up of the second command, which ``ready_ms`` leaves out, as for all paths.
        """
        ready_ms = pull_ms + (answer.answered_s - started.received_s) * 1e3
        answered_ms = (answer.answered_s - started.started_s) * 1e3
        return Sample(
            path=self.name,
            round=round_number,
            ready_ms=ready_ms,
            wall_ms=pull_ms + max(started.wall_ms, answered_ms),
            phases=product_phases(started, ready_ms, pull_ms),
            fetched_bytes=fetched_bytes,
            answer_ok=answer.wrong_answers == 0,
            problem=answer.problem,
        )

    def _pull(self, running: BenchAgent) -> float:
        """Pull if this path does; return the milliseconds."""
        if not self.pull_first:
            return 0.0
        started_s = time.monotonic()
        running.client.pull(running.store.url, self.reference)
        return (time.monotonic() - started_s) * 1e3

    def _words(self, port: int) -> list[str]:
        """Return the command's words."""
        words = [self.verb, self.reference, "--name", container_name(port)]
        words += ["--publish", f"{port}:{self.question.port}"]
        words += ["--ready-timeout", f"{self.timeout_s:g}"]
        if self.verb == "restore":
            return [*words, "--no-fallback"]
        return [*words, "--no-snapshot", *(["--ready", self.ready] if self.ready else [])]

    def _check(self, started: CommandStart) -> None:
        wanted = "restore" if self.verb == "restore" else "cold"
        if started.route != wanted:
            raise WrongRoute(
                f"{self.name}: started by the route {started.route!r}, expected {wanted!r} "
                f"({started.fallback_reason or 'no reason given'})"
            )
        if self.phase and self.phase not in started.phases:
            raise WrongRoute(
                f"{self.name}: there is no {self.phase} in this start, only "
                f"{', '.join(started.phases)}"
            )


def product_phases(started: CommandStart, ready_ms: float, pull_ms: float) -> dict[str, float]:
    """Return the agent's phases, and what passed between its *ready* and the first answer."""
    phases = {"pull_ms": pull_ms} if pull_ms else {}
    phases |= {name: ms for name, ms in started.phases.items() if name != "unaccounted_ms"}
    phases["first_answer_ms"] = max(0.0, ready_ms - pull_ms - started.ready_ms)
    return phases | {"unaccounted_ms": max(0.0, ready_ms - sum(phases.values()))}


def container_name(port: int) -> str:
    """Return the name of the container that publishes ``port``."""
    return f"bench-{port}"


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
