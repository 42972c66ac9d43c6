"""What is asked of the measured server, and when an answer counts as correct.

A ``Question`` is one HTTP request with the vector that must come back. Values only: sending is
the poller's work. A vector is correct when it has the expected length and no component differs by
more than the tolerance; anything that is not a finite number is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hotstart.core.errors import HotstartError

TOLERANCE = 1e-3
"""Components are of unit length vectors; the same build on the same CPU differs by 0."""


class AnswerUnusable(HotstartError):
    """A response body is not an embedding."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request; ``expected`` is None while the reference is being taken."""

    text: str
    port: int = 8000
    path: str = "/embed"
    expected: tuple[float, ...] | None = None
    tolerance: float = TOLERANCE

    def body(self) -> bytes:
        """Return the request's body."""
        return json.dumps({"text": self.text}).encode()

    def request(self) -> bytes:
        """Return the whole HTTP/1.1 request; the server closes after its answer."""
        body = self.body()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    def expecting(self, vector: Sequence[float]) -> Question:
        """Return this question with its reference answer."""
        return replace(self, expected=tuple(vector))

    def accepts(self, vector: Sequence[float]) -> bool:
        """Whether ``vector`` is the expected answer; always, while none is expected."""
        if self.expected is None:
            return True
        return len(vector) == len(self.expected) and all(
            abs(mine - theirs) <= self.tolerance  # NaN compares false: never accepted
            for mine, theirs in zip(vector, self.expected, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can carry them."""
        return {
            "text": self.text,
            "port": self.port,
            "path": self.path,
            "expected": None if self.expected is None else list(self.expected),
            "tolerance": self.tolerance,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Question:
        """Rebuild what ``as_dict`` gave."""
        expected = fields["expected"]
        return cls(
            text=fields["text"],
            port=fields["port"],
            path=fields["path"],
            expected=None if expected is None else tuple(expected),
            tolerance=fields["tolerance"],
        )


def vector_of(body: bytes) -> tuple[float, ...]:
    """Return the embedding in a response body. Raises AnswerUnusable."""
    try:
        vector = tuple(float(value) for value in json.loads(body)["vector"])
    except (ValueError, TypeError, KeyError) as err:
        raise AnswerUnusable(f"response is not an embedding: {body[:120]!r}") from err
    if not vector or not all(math.isfinite(value) for value in vector):
        raise AnswerUnusable("response is an embedding without usable numbers")
    return vector
