"""How every command ends: the one table of exit codes (docs/cli.md shows it).

Own codes start at 100, so that an attached ``run``, ``restore`` or ``exec``, which pass the
program's own status through, stay unambiguous for nearly every program.
"""

from __future__ import annotations

from dataclasses import dataclass

OK = 0
BUG = 1
USAGE = 2
REPAIRED = 108
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ExitCode:
    """One row: ``classes`` are names of error classes, looked up along an error's bases."""

    code: int
    kind: str
    classes: tuple[str, ...]
    meaning: str


TABLE = (
    ExitCode(OK, "ok", (), "done"),
    ExitCode(BUG, "bug", (), "a fault in Hotstart itself; the traceback is on stderr"),
    ExitCode(USAGE, "usage", (), "the command line is wrong"),
    ExitCode(100, "user", ("UserError",), "the request cannot be carried out as asked"),
    ExitCode(101, "not_found", ("NotFound",), "no such reference, container, mount or file"),
    ExitCode(102, "conflict", ("Conflict",), "the name or port is taken, or something is in use"),
    ExitCode(103, "unavailable", ("Unavailable",), "a store or the agent does not answer"),
    ExitCode(104, "integrity", ("IntegrityError",), "a digest, signature or format is wrong"),
    ExitCode(105, "unsupported", ("Unsupported",), "this host lacks a feature"),
    ExitCode(
        106,
        "not_ready",
        ("NotReady", "ContainerNotReady", "GoldenUnanswered"),
        "the container did not become ready, and nothing is left running; "
        "or a golden request got no answer",
    ),
    ExitCode(107, "failed", ("HotstartError",), "a step failed that should not have; see the log"),
    ExitCode(REPAIRED, "repaired", (), "verify found wrong bytes in the cache and repaired them"),
    ExitCode(
        INTERRUPTED, "interrupted", ("CallCancelled",), "interrupted; what had begun is undone"
    ),
)

_BY_CLASS = {name: row for row in TABLE for name in row.classes}
_BUG_ROW = TABLE[1]


def row_of(error: BaseException) -> ExitCode:
    """Return the row of the nearest known class of ``error``; a bug if none is known."""
    for error_class in type(error).__mro__:
        if error_class.__name__ in _BY_CLASS:
            return _BY_CLASS[error_class.__name__]
    return _BUG_ROW
