"""Strict reading of JSON documents: every key known, every value typed, one spelling.

``parse_object`` refuses duplicate keys, NaN and, where a digest names the bytes, any spelling but
the canonical one. ``Fields`` takes keys one by one; ``finish`` refuses what is left, by name.
Whatever is wrong becomes the caller's own FormatInvalid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from hotstart.core import canonical_json
from hotstart.core.digest import Digest
from hotstart.core.errors import UserError
from hotstart.store.format_errors import FormatInvalid

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_NUMBER = (1 << 63) - 1
"""Largest count, size or offset in any document."""


def parse_object(content: bytes, invalid: type[FormatInvalid], *, canonical: bool) -> Fields:
    """Return the fields of the JSON object in ``content``. Raises ``invalid``."""
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
        spelled = canonical_json.encode(value)
    except (ValueError, RecursionError) as err:
        raise invalid(f"not a JSON document: {str(err)[:120]}") from err
    if canonical and spelled != content:
        raise invalid(
            "the JSON is not in its canonical spelling; it was changed or written by another "
            "program: copy it anew"
        )
    return Fields(value, "document", invalid)


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not a number")


class Fields:
    """The keys of one JSON object, taken one at a time. ``where`` names it in messages."""

    def __init__(self, value: object, where: str, invalid: type[FormatInvalid]) -> None:
        if not isinstance(value, dict):
            raise invalid(f"{where} is not an object")
        self._left: dict[str, JsonValue] = dict(value)
        self._where = where
        self._invalid = invalid

    def has(self, key: str) -> bool:
        """Tell whether ``key`` is there and not taken yet."""
        return key in self._left

    def take(self, key: str) -> JsonValue:
        """Return any value of ``key``."""
        if key not in self._left:
            raise self._invalid(f"{self._where} has no {key!r}")
        return self._left.pop(key)

    def text(self, key: str) -> str:
        """Return a string."""
        value = self.take(key)
        if not isinstance(value, str):
            raise self.wrong(key, "is not a string")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string or None for null."""
        value = self.take(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "is neither a string nor null")
        return value

    def number(self, key: str, *, lowest: int = 0, highest: int = MAX_NUMBER) -> int:
        """Return a whole number within limits."""
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "is not a whole number")
        if not lowest <= value <= highest:
            raise self.wrong(key, f"is not within {lowest}..{highest}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "is neither true nor false")
        return value

    def digest(self, key: str) -> Digest:
        """Return a digest."""
        try:
            return Digest.parse(self.text(key))
        except UserError as err:
            raise self.wrong(key, f"is no digest: {err}") from err

    def items(self, key: str) -> list[JsonValue]:
        """Return a list."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.wrong(key, "is not a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        return tuple(self._checked_text(key, text) for text in self.items(key))

    def mapping(self, key: str) -> dict[str, JsonValue]:
        """Return an object of any content."""
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "is not an object")
        return value

    def text_mapping(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings."""
        found = self.mapping(key)
        return {name: self._checked_text(key, text) for name, text in found.items()}

    def fields(self, key: str) -> Fields:
        """Return an object to be taken apart."""
        return Fields(self.take(key), f"{self._where}.{key}", self._invalid)

    def each(self, key: str) -> list[Fields]:
        """Return a list of objects to be taken apart."""
        return [
            Fields(item, f"{self._where}.{key}[{number}]", self._invalid)
            for number, item in enumerate(self.items(key))
        ]

    def finish(self) -> None:
        """Refuse every key that was not taken, by name."""
        if self._left:
            raise self._invalid(f"{self._where} has unknown keys: {_names(self._left)}")

    def wrong(self, key: str, what: str) -> FormatInvalid:
        """Return the error for a wrong value of ``key``."""
        return self._invalid(f"{self._where}.{key} {what}")

    def _checked_text(self, key: str, value: JsonValue) -> str:
        if not isinstance(value, str):
            raise self.wrong(key, "holds something that is not a string")
        return value


def _names(keys: Mapping[str, object]) -> str:
    return ", ".join(repr(key[:60]) for key in sorted(keys)[:5])
