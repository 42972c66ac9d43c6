"""Starts by the command line, as a user types them: what ``hotstart run`` and ``restore`` print.

The command runs as a program of its own, so its wall time has everything a user waits for. Its
JSON document says when the agent had the request, on the clock that all processes share.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
from bench.store_access import StoreAccess
from hotstart.core.errors import HotstartError
from hotstart.core.run import run

SOURCE = Path(bench.__file__).parents[1]
"""Where the packages are, installed or not: python -m looks in its working directory first."""


class CommandRefused(HotstartError):
    """The command ended with an error; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class CommandStart:
    """How a start by command went. ``received_s``, ``started_s``: CLOCK_MONOTONIC seconds."""

    started_s: float
    wall_ms: float
    received_s: float
    ready_ms: float
    route: str
    fallback_reason: str
    phases: Mapping[str, float]
    fetched_bytes: int


def start(
    root: Path, store: StoreAccess, words: Sequence[str], *, timeout_s: float
) -> CommandStart:
    """Run ``hotstart WORDS --detach`` against the agent of ``root``; block until it is ready.

    Raises CommandRefused, CommandTimedOut.
    """
    flags = ["--root", str(root), "--store", store.url, "--json"]
    argv = [sys.executable, "-m", "cli.main", *flags, *words, "--detach"]
    started_s = time.monotonic()
    done = run(argv, check=False, env=store.env, cwd=SOURCE, timeout_s=timeout_s)
    wall_ms = (time.monotonic() - started_s) * 1e3
    if done.status != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CommandRefused(f"hotstart {words[0]}: exit status {done.status}: {lines[-3:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return CommandStart(
        started_s=started_s,
        wall_ms=wall_ms,
        received_s=report["received_s"],
        ready_ms=report["ready_ms"],
        route=report["route"],
        fallback_reason=report["fallback_reason"],
        phases=report["phases"],
        fetched_bytes=report["fetched_bytes"],
    )
