"""Client of the fill worker's control socket.

A connection a request. A request whose worker ends under it is asked again of its successor: none
does harm when it is carried out twice. All the time that a request finds nobody to connect to may
be ``away_s``, however long it is carried out in between. Methods block and may be called from any
thread.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotstart.core.errors import HotstartError, Unavailable
from hotstart.store.trace import Trace
from lazyfs.error_roots import error_from_json
from lazyfs.fill_service import SetUnknown
from lazyfs.plans import Plan, TracePlan, plan_to_json

AWAY_S = 15.0
ANSWER_S = 120.0
ATTACH_S = 3600.0
"""After a power loss all that was local of a device is read and verified before it is served."""
KEPT_PLANS = 64
"""Plans that are begun again in a successor."""
CHECK_S = 0.2
_POLL_S = 20.0
_PAUSE_S = 0.005


class FillWorkerGone(Unavailable):
    """Nobody answers on the fill worker's socket."""


class FillRefused(HotstartError):
    """The fill worker could not do what it was asked, and no root of errors says more."""


class PrefetchFailed(HotstartError):
    """A prefetch that somebody waited for has failed, and no root of errors says more."""


@dataclass(slots=True, eq=False)
class _Begun:
    """A prefetch under way; ``number`` is the job's number, in this worker and its successors.

    Chosen here: a worker that dies before it answers leaves a job that can be stopped all the same.
    """

    device_ids: tuple[str, ...]
    plan: Plan
    number: int = field(default_factory=lambda: secrets.randbits(62))


class FillClient:
    """Talks to the fill worker at ``path``."""

    def __init__(self, path: Path, *, away_s: float = AWAY_S, answer_s: float = ANSWER_S) -> None:
        """``answer_s`` is for requests that have no time of their own."""
        self._path = path
        self._away_s = away_s
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._begun: dict[int, _Begun] = {}

    def ping(self) -> None:
        """Return when the worker answers. Raises FillWorkerGone."""
        self._ask("ping")

    def attach(self, name: str, token: str) -> None:
        """Have the worker serve a set of the keeper's; known ones are no error."""
        self._ask("attach", ATTACH_S, name=name, token=token)

    def detach(self, name: str, token: str) -> None:
        """Have the worker forget a set that nobody reads any more; never another of the name."""
        self._ask("detach", name=name, token=token)

    def mounted(self, name: str) -> None:
        """Tell that a device is mounted, so that its mark may come off once it is complete."""
        self._ask("mounted", name=name)

    def prefetch(self, device_ids: Sequence[str], plan: Plan) -> int:
        """Begin to fetch and return the job's number."""
        begun = _Begun(tuple(device_ids), plan)
        begun.number = self._begin(begun)
        with self._lock:
            self._begun[begun.number] = begun
            while len(self._begun) > KEPT_PLANS:
                del self._begun[next(iter(self._begun))]
        return begun.number

    def _begin(self, begun: _Begun) -> int:
        devices, plan = list(begun.device_ids), plan_to_json(begun.plan)
        return int(self._ask("prefetch", devices=devices, plan=plan, job=begun.number))

    def job(self, number: int, wait_s: float = 0.0) -> dict[str, Any]:
        """Return how far a job is; one that a worker took to its grave is begun again.

        Raises SetUnknown for a job that this client did not begin, or long ago.
        """
        with self._lock:
            begun = self._begun.get(number)
        try:
            current = number if begun is None else begun.number
            result: dict[str, Any] = self._ask("job", job=current, wait_s=wait_s)
        except SetUnknown:
            if begun is None:
                raise
            begun.number = self._begin(begun)
            result = self._ask("job", job=begun.number, wait_s=wait_s)
        if result["done"]:
            with self._lock:
                self._begun.pop(number, None)
        return result

    def stop_traces(self, device_ids: Collection[str]) -> None:
        """Have prefetches along a trace of these devices alone take no further task."""
        with self._lock:
            numbers = [
                number
                for number, begun in self._begun.items()
                if isinstance(begun.plan, TracePlan) and set(begun.device_ids) <= set(device_ids)
            ]
            stopped = [self._begun.pop(number) for number in numbers]
        for begun in stopped:
            self._ask("stop", job=begun.number)

    def stop(self, number: int) -> None:
        """Have a job take no further task, in no successor either; no error if it is over."""
        with self._lock:
            begun = self._begun.pop(number, None)
        self._ask("stop", job=number if begun is None else begun.number)

    def wait(self, number: int, check: Callable[[], object] | None = None) -> dict[str, Any]:
        """Wait for a job's end and return it. Raises what made it fail, or PrefetchFailed.

        ``check`` is called every ``CHECK_S``; what it raises stops the job, and is raised.
        """
        step_s = _POLL_S if check is None else CHECK_S
        while not (job := self.job(number, step_s))["done"]:
            try:
                if check is not None:
                    check()
            except BaseException:
                with suppress(FillWorkerGone):  # why nobody waits any more is what must be heard
                    self.stop(number)
                raise
        if job["error"] is not None:
            about = f"prefetch of {job['kind']}: "
            raise error_from_json(job["error"], PrefetchFailed, about=about)
        return job

    def record_start(self, device_ids: Sequence[str]) -> None:
        """Begin to note what is touched on devices."""
        self._ask("record_start", devices=list(device_ids))

    def record_stop(self, names: Sequence[str]) -> Trace:
        """End noting on sets of the keeper's and return what was touched."""
        return Trace.decode(base64.b64decode(self._ask("record_stop", names=list(names))))

    def warm(self, store_url: str) -> int:
        """Open connections to a store; returns how many answered."""
        return int(self._ask("warm", store=store_url))

    def lift_quarantine(self) -> int:
        """Let chunks that came wrong twice be fetched again; returns how many."""
        return int(self._ask("lift_quarantine"))

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return why a reader last got an error, by device id: ReaderFailures' form."""
        result: dict[str, dict[str, Any]] = self._ask("failures")
        return result

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return counters and sizes by device id."""
        result: dict[str, dict[str, Any]] = self._ask("stats")
        return result

    def _ask(self, op: str, answer_s: float = 0.0, **rest: Any) -> Any:  # noqa: ANN401  # JSON
        answer_s = answer_s or self._answer_s
        line = json.dumps({"op": op, **rest}).encode() + b"\n"
        away_s = 0.0
        while True:
            try:
                answer = json.loads(self._exchange(line, answer_s))
                break
            except TimeoutError as err:
                raise FillWorkerGone(f"{self._path}: no answer within {answer_s:g} s") from err
            except OSError as err:
                if away_s >= self._away_s:
                    raise FillWorkerGone(f"{self._path}: no fill worker answers: {err}") from err
                time.sleep(_PAUSE_S)
                away_s += _PAUSE_S
        if not answer["ok"]:
            if answer["kind"] == "SetUnknown":
                raise SetUnknown(answer["error"], answer["hint"])
            raise error_from_json(answer, FillRefused)
        return answer["result"]

    def _exchange(self, line: bytes, answer_s: float) -> bytes:
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(answer_s)
                # Through the descriptor: a socket's path is limited to 107 bytes.
                client.connect(f"/proc/self/fd/{directory}/{self._path.name}")
                client.sendall(line)
                with client.makefile("rb") as answers:
                    answer = answers.readline()
        finally:
            os.close(directory)
        if not answer.endswith(b"\n"):  # nothing, or a part of it
            raise ConnectionResetError("the fill worker ended in between")
        return answer
