"""Where ``hotstart bench`` leaves a result: looked at before the run, which may take half an hour.

Nothing is made beforehand, so a run that fails leaves no empty file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.plots import PlotsUnavailable
from cli.output import say
from hotstart.core.errors import UserError


class ResultUnwritable(UserError):
    """A result cannot be written where it was asked for."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: the result cannot be written there: {why}", "name another path")
        self.path = path


def check_places(json_file: Path | None, report: Path | None) -> None:
    """Raise ResultUnwritable or PlotsUnavailable if a result could not be left there."""
    if json_file is not None:
        _check_directory(json_file, json_file.absolute().parent)
        if json_file.exists() and not os.access(json_file, os.W_OK):
            raise ResultUnwritable(json_file, "it is read-only")
    if report is not None:
        place = report.absolute()
        existing = next(path for path in (place, *place.parents) if path.exists())
        _check_directory(report, existing)
        if find_spec("matplotlib") is None:
            raise PlotsUnavailable


def _check_directory(path: Path, directory: Path) -> None:
    if not directory.exists():
        raise ResultUnwritable(path, f"there is no directory {directory}")
    if not directory.is_dir():
        raise ResultUnwritable(path, f"{directory} is no directory")
    if not os.access(directory, os.W_OK | os.X_OK):  # also false on a read-only file system
        raise ResultUnwritable(path, f"{directory} is read-only")


def keep(
    result: dict[str, Any],
    json_file: Path | None,
    report: Path | None,
    write: Callable[[dict[str, Any], Path], Path],
) -> None:
    """Write what was asked for; the document first. Raises ResultUnwritable."""
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(result, indent=2) + "\n")
        except OSError as err:
            raise ResultUnwritable(json_file, err.strerror or str(err)) from err
    if report is not None:
        try:
            page = write(result, report)
        except OSError as err:
            raise ResultUnwritable(report, err.strerror or str(err)) from err
        say(f"hotstart: the report is {page}")
