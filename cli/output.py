"""What a person or a script gets to read: results on stdout, talk on stderr, JSON when asked.

With JSON every command prints exactly one document on stdout, an error document included. Rich is
imported only when something is drawn on a terminal.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cli.exit_codes import row_of
from hotstart.core.digest import Digest
from hotstart.core.progress import LineSink, NullSink, ProgressSink


def say(text: str) -> None:
    """Write one line of talk to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """Write one line of result to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def plain(value: object) -> object:
    """Return ``value`` as JSON knows it: dataclasses as objects, tuples as lists."""
    if isinstance(value, Digest):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def show_json(document: object) -> None:
    """Write one JSON document to stdout."""
    show(json.dumps(plain(document), indent=2, ensure_ascii=False))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return left-aligned columns two spaces apart, headings first."""
    lines = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def size(count: int) -> str:
    """Return a number of bytes as people read it: ``1.5 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def report_error(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong and return the exit code of the table."""
    row = row_of(error)
    hint = str(getattr(error, "hint", ""))
    message = str(error) or type(error).__name__
    say(f"hotstart: {message}" + (f"; {hint}" if hint else ""))
    if as_json:
        kind = type(error).__name__
        show_error(code=row.code, kind=row.kind, error_class=kind, message=message, hint=hint)
    return row.code


def show_error(*, code: int, kind: str, error_class: str, message: str, hint: str) -> None:
    """Write the error document to stdout."""
    fields = {"code": code, "kind": kind, "class": error_class, "message": message, "hint": hint}
    show_json({"error": fields})


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[ProgressSink]:
    """Yield a sink that draws bars on a terminal and writes plain lines elsewhere."""
    if quiet:
        yield NullSink()
    elif sys.stderr.isatty():
        from cli.progress_bars import BarSink  # rich costs 100 ms: only when it is seen

        with BarSink() as bars:
            yield bars
    else:
        yield LineSink(sys.stderr.write)
