"""The root of an error by its name: how an error's kind gets from the fill worker to who asked."""

from __future__ import annotations

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


def root_name(error: BaseException) -> str:
    """Return the name of the error's root; of any other error, HotstartError."""
    return next((root.__name__ for root in _ROOTS if isinstance(error, root)), "HotstartError")


def root_named(name: str | None, otherwise: type[HotstartError]) -> type[HotstartError]:
    """Return the root of this name, or ``otherwise`` for none of its own."""
    return _BY_NAME.get(name or "", otherwise)
