"""The four ways anything here can fail, and nothing else.

Concrete errors live beside the code that raises them, derive from one of these roots and carry
fields. A message says where, what happened (expected and actual), and what to do.
"""

from __future__ import annotations


class HotstartError(Exception):
    """Base of every expected failure. A bug is never one of these."""


class UserError(HotstartError):
    """The request cannot be carried out as asked; ``hint`` says what to do instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotFound(UserError):
    """A named thing (reference, container, file) does not exist."""


class Conflict(UserError):
    """The thing exists already, is in use, or was changed by somebody else meanwhile."""


class Unavailable(HotstartError):
    """Something outside did not answer as it should; trying again may help."""


class IntegrityError(HotstartError):
    """Bytes are not what their digest, signature or format promises. Never retried into silence."""


class Unsupported(HotstartError):
    """This host lacks a feature; the message names it and says why."""
