"""What people have today, measured beside Hotstart: a cold start by plain runc, and plain CRIU.

``PeerStage`` owns what every peer start needs and outlives them: a network namespace with its
loopback up, /dev, the dump files of ``criu-plain``. Each start gets a fresh overlay and ends with
nothing running. The clock starts before runc is executed and stops at the first correct answer.

CRIU has the options that ours has (network lock skipped, control groups left to runc, files checked
by size only), and /run a tmpfs for runc and CRIU alone, because CRIU keeps its kernel probes only
there (criu/kerndat.c). Programs inherit that /run from the thread that starts them. runc starts it
by the front that ours has, so no shell lies between them. A restore writes no log: runc asks for
the most detailed one (220 KB), and what it asks for goes before a configured verbosity
(criu/cr-service.c, setup_logging_from_req), but a configured file goes before its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from bench.first_answer import FirstAnswer, FirstAnswerPoller, NoAnswer
from bench.page_cache import PageCache
from bench.peer_container import CGROUP, PeerContainer, PeerFailed, PeerPlace, PeerProgram
from bench.question import Question
from bench.samples import Sample
from hotstart.core.run import run
from hotstart.kernel import mounts
from hotstart.kernel.cgroup import Group
from hotstart.kernel.namespaces import (
    call_in_network,
    call_in_private_mounts,
    create_network,
    remove_network,
)
from snapshotter.criu import CriuFront, CriuOptions

RUN_BYTES = 64 << 20
NO_LOG = "log-file /dev/null\n"
CALL_OFF_TIMEOUT_S = 90.0

Result = TypeVar("Result")


class PeerStage:
    """Everything that peer starts share; a context manager. ``criu`` is the program in use."""

    def __init__(self, scratch: Path, program: PeerProgram, criu: Path) -> None:
        self._scratch = scratch
        self._program = program
        self._run_directory = scratch / "run"
        self._stack = ExitStack()
        self._started = 0
        self._called_off = False
        self._poller: FirstAnswerPoller | None = None
        self.netns = scratch / "netns"
        self.dump = scratch / "dump"
        self.dumped_upper = scratch / "dumped-upper"
        self._front = CriuFront(scratch / "criu", criu)
        self._place = PeerPlace(
            netns=self.netns,
            criu_config=scratch / "criu.conf",
            env=self._front.environment(plain_run=True),
        )

    def __enter__(self) -> PeerStage:
        try:
            self._prepare()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _prepare(self) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._run_directory.mkdir()
        mounts.tmpfs(self._run_directory, mode=0o755, size_bytes=RUN_BYTES)
        self._stack.callback(mounts.unmount, self._run_directory, detach=True)
        self._stack.callback(Group.named(CGROUP).remove)
        create_network(self.netns)
        self._stack.callback(remove_network, self.netns)
        call_in_network(self.netns, lambda: run(["ip", "link", "set", "lo", "up"]))
        self._front.install()
        CriuOptions().write(self._place.criu_config)

    def in_private_run(self, function: Callable[[], Result]) -> Result:
        """Call ``function`` where /run is the stage's tmpfs, for it and what it starts."""

        ended = threading.Event()

        def inside() -> Result:
            try:
                mounts.bind(self._run_directory, "/run")
                return function()
            finally:
                ended.set()

        try:
            return call_in_private_mounts(inside)
        except (KeyboardInterrupt, SystemExit):
            # Only this thread is interrupted; the other one undoes what it has started, and must
            # have done so before the stage itself goes.
            self._called_off = True
            if self._poller is not None:
                self._poller.call_off()
            ended.wait(CALL_OFF_TIMEOUT_S)
            raise

    def time_to_end(self, program: PeerProgram) -> float:
        """Run another program in a fresh container to its end; return the milliseconds."""

        def time_it() -> float:
            with self.container(program=program) as container:
                return container.run_to_end()

        return self.in_private_run(time_it)

    def container(
        self, upper: Path | None = None, program: PeerProgram | None = None
    ) -> PeerContainer:
        """Return a container that is not started yet; its writable layer is a copy of ``upper``."""
        self._started += 1
        directory = self._scratch / f"peer-{os.getpid()}-{self._started}"
        return PeerContainer(directory, program or self._program, self._place, upper)

    def poller(self, question: Question, timeout_s: float) -> FirstAnswerPoller:
        """Return a poller in the peers' network namespace."""
        if self._called_off:
            raise PeerFailed("first answer", "the run was interrupted", "")
        self._poller = FirstAnswerPoller(question, netns=self.netns, timeout_s=timeout_s)
        return self._poller

    def answers(self, questions: Sequence[Question], timeout_s: float) -> list[Question]:
        """Ask a live, cold-started server; return the questions with its answers as reference."""

        def ask() -> list[Question]:
            with self.container() as container:
                container.run()
                return [self._reference(question, timeout_s) for question in questions]

        return self.in_private_run(ask)

    def _reference(self, question: Question, timeout_s: float) -> Question:
        with self.poller(question, timeout_s) as poller:
            poller.begin()
            return question.expecting(poller.result().vector)

    def capture(self, question: Question, timeout_s: float) -> None:
        """Dump a server that has answered ``question`` once, for ``criu-plain``."""

        def dump() -> None:
            with self.container() as container:
                container.run()
                self._reference(question, timeout_s)
                container.checkpoint(self.dump)
                run(["cp", "--archive", str(container.directory.upper), str(self.dumped_upper)])

        self.in_private_run(dump)
        self._place.criu_config.write_text(CriuOptions().config_text() + NO_LOG)


@dataclass(frozen=True, slots=True)
class PeerPath:
    """One measured path of a peer; ``verb`` is "run" or "restore"."""

    name: str
    stage: PeerStage
    question: Question
    verb: str = "run"
    emptied: PageCache | None = None
    timeout_s: float = 120.0

    def measure(self, round_number: int) -> Sample:
        """Start once; see ``bench.rounds.MeasuredPath``."""
        return self.stage.in_private_run(lambda: self._measure(round_number))

    def _measure(self, round_number: int) -> Sample:
        restores = self.verb == "restore"
        container = self.stage.container(self.stage.dumped_upper if restores else None)
        with container, self.stage.poller(self.question, self.timeout_s) as poller:
            if self.emptied is not None:
                self.emptied.drop()
            poller.begin()
            started_s = time.monotonic()
            runc_ms = container.restore(self.stage.dump) if restores else container.run()
            answer = _answer(poller, container)
        ready_ms = (answer.answered_s - started_s) * 1e3
        return Sample(
            path=self.name,
            round=round_number,
            ready_ms=ready_ms,
            wall_ms=max(ready_ms, runc_ms),
            phases=peer_phases(started_s, runc_ms, answer),
            answer_ok=answer.wrong_answers == 0,
            problem=answer.problem,
        )


def peer_phases(started_s: float, runc_ms: float, answer: FirstAnswer) -> dict[str, float]:
    """Split a peer's start into what runc took, the way to listening, and the first answer."""
    connected_ms = (answer.connected_s - started_s) * 1e3
    ready_ms = (answer.answered_s - started_s) * 1e3
    runc_part = min(runc_ms, connected_ms)
    phases = {
        "runc_ms": runc_part,
        "until_listening_ms": connected_ms - runc_part,
        "first_request_ms": ready_ms - connected_ms,
    }
    return phases | {"unaccounted_ms": max(0.0, ready_ms - sum(phases.values()))}


def _answer(poller: FirstAnswerPoller, container: PeerContainer) -> FirstAnswer:
    try:
        return poller.result()
    except NoAnswer as err:
        raise PeerFailed("first answer", str(err), container.log()) from err
