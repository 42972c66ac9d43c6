"""Processes that another one traces (ptrace), which CRIU can neither stop nor tell apart from dead.

CRIU stops what it dumps by ptrace itself, and a process has one tracer at most (ptrace(2)).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def traced_by(processes: Iterable[int]) -> str:
    """Say which of these processes is traced, by whom, and what to do; empty if none is.

    ``processes`` are those of one container, by the host's numbers; it is named by its own.
    """
    own = {pid: _status(Path(f"/proc/{pid}")) for pid in processes}
    for pid in own:
        for status in map(_status, Path(f"/proc/{pid}/task").glob("*")):
            tracer = int(status.get("TracerPid", "0"))
            if tracer:
                return (
                    f"{_named(own[pid])} is traced by {_tracer(tracer, own)}; "
                    "end that debugger or strace first"
                )
    return ""


def _tracer(tracer: int, own: Mapping[int, Mapping[str, str]]) -> str:
    if tracer in own:
        return _named(own[tracer])
    name = _status(Path(f"/proc/{tracer}")).get("Name", "")
    return f"a process outside of the container, {tracer} ({name})"


def _named(status: Mapping[str, str]) -> str:
    """Name a process as the container does: by its number in the innermost namespace."""
    number = (status.get("NSpid") or "?").split()[-1]
    return f"its process {number} ({status.get('Name', '')})"


def _status(process: Path) -> Mapping[str, str]:
    """Return the fields of a status file (proc(5)); none of a process that is gone."""
    try:
        text = (process / "status").read_text(errors="replace")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in fields}
