"""How an error gets from the fill worker to who asked: its words, its root by name, its hint."""

from __future__ import annotations

from collections.abc import Mapping

from hotstart.core.errors import (
    Conflict,
    HotstartError,
    IntegrityError,
    NotFound,
    Unavailable,
    Unsupported,
    UserError,
)

_ROOTS = (NotFound, Conflict, UserError, Unavailable, IntegrityError, Unsupported)  # nearest first
_BY_NAME = {root.__name__: root for root in _ROOTS}


def error_to_json(error: BaseException) -> dict[str, str]:
    """Return an error as ``error``, ``root`` and ``hint``; of any other root, HotstartError."""
    root = next((root.__name__ for root in _ROOTS if isinstance(error, root)), "HotstartError")
    return {"error": str(error), "root": root, "hint": str(getattr(error, "hint", ""))}


def error_from_json(
    value: Mapping[str, str], otherwise: type[HotstartError], *, about: str = ""
) -> HotstartError:
    """Return the error to raise: of its root, or ``otherwise``; its words begin with ``about``.

    The hint of a root that has none ends the sentence.
    """
    root, text = _BY_NAME.get(value["root"], otherwise), f"{about}{value['error']}"
    if issubclass(root, UserError):
        return root(text, value["hint"])
    return root(f"{text}; {value['hint']}" if value["hint"] else text)
