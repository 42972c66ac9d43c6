"""Structured lines: a constant event name and fields, one canonical line per operation.

Loggers are the standard library's, so that tests and services capture them as usual; ``event``
renders ``name key=value ...``. Only main modules choose where lines go (``configure``); until one
does, those of ``hotstart`` go nowhere: a command says what is wrong in a sentence of its own.
"""

from __future__ import annotations

import json
import logging
import sys

logging.getLogger("hotstart").addHandler(logging.NullHandler())


class EventLogger:
    """A thin front of one standard logger. Values are fields, never part of the event's name."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Log detail that only a developer reads."""
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log something that happened as it should."""
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log something an operator may want to act on."""
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log a failure, once, where it is handled."""
        self._emit(logging.ERROR, event, fields)

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            words = " ".join(f"{key}={_render(value)}" for key, value in fields.items())
            self._logger.log(level, "%s", f"{event} {words}" if words else event)


def _render(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module; call as ``get_logger(__name__)``."""
    return EventLogger(name)


def configure(level: str = "INFO") -> None:
    """Send every line to stderr with time and level. For main modules only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
