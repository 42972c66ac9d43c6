"""Golden requests: what a restored process must answer as the frozen one did.

A request is a small JSON file: ``{"method","path","port","headers","body","expect"}`` over HTTP, or
``{"exec": [...]}`` inside the container, both with
``"expect": {"mode": "exact" | "json", "paths": [...], "tolerance": X}``. ``paths`` are dotted
(``data.0.vector``); without them the whole document counts. Numbers are equal within
``tolerance``. Values and comparison only; sending is runtime's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from hotstart.core.errors import UserError
from hotstart.store.json_document import JsonValue
from hotstart.store.snapshot_config import ExpectedAnswer, Golden

_KEYS = {"method", "path", "port", "headers", "body", "exec", "expect"}
_EXPECT_KEYS = {"mode", "paths", "tolerance"}
_SHOWN = 120


class GoldenInvalid(UserError):
    """A golden request file cannot be used."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"golden request: {what}",
            'write {"method","path","port","headers","body","expect"} or {"exec": [...]}',
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: HTTP status or exit status, and the bytes of the body or of stdout."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class GoldenRequest:
    """One request. With ``argv`` it is a program to run in the container, else HTTP."""

    method: str = "GET"
    path: str = "/"
    port: int = 80
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    body: bytes = b""
    argv: tuple[str, ...] = ()
    mode: str = "exact"
    paths: tuple[str, ...] = ()
    tolerance: float = 0.0
    source: Mapping[str, JsonValue] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def load(cls, text: str | bytes) -> GoldenRequest:
        """Read the text of a file. Raises GoldenInvalid."""
        try:
            value = json.loads(text)
        except ValueError as err:
            raise GoldenInvalid(f"not JSON: {err}") from err
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: object) -> GoldenRequest:
        """Read a JSON value. Raises GoldenInvalid."""
        if not isinstance(value, dict):
            raise GoldenInvalid("not an object")
        _known(value, _KEYS)
        expect = value.get("expect", {})
        if not isinstance(expect, dict):
            raise GoldenInvalid("expect is not an object")
        _known(expect, _EXPECT_KEYS)
        argv = _texts(value.get("exec", []), "exec")
        if not argv and "path" not in value:
            raise GoldenInvalid("it has neither a path nor a program")
        body, headers = _body(value.get("body"), _headers(value.get("headers", {})))
        return cls(
            method=_text(value.get("method", "POST" if body else "GET"), "method"),
            path=_path(value.get("path", "/")),
            port=_port(value.get("port", 80)),
            headers=headers,
            body=body,
            argv=argv,
            mode=_mode(expect.get("mode", "exact")),
            paths=_texts(expect.get("paths", []), "paths"),
            tolerance=_tolerance(expect.get("tolerance", 0.0)),
            source=cast(Mapping[str, JsonValue], value),
        )

    def keep(self, answer: Answer) -> Golden:
        """Return request and answer in the form that a snapshot carries. Raises GoldenInvalid."""
        if self.mode == "json":
            document = _document(answer)
            if isinstance(document, str):
                raise GoldenInvalid(f"the answer is no JSON document: {document}")
            return Golden(self.source, ExpectedAnswer(answer.status, json=document[0]))
        return Golden(self.source, ExpectedAnswer(answer.status, body=answer.body))

    def compare(self, expected: ExpectedAnswer, actual: Answer) -> str | None:
        """Return how ``actual`` differs from what was kept, or None if it doesn't."""
        if actual.status != expected.status:
            return f"status is {actual.status}, expected {expected.status}"
        if self.mode == "exact":
            return _bytes_differ(expected.body or b"", actual.body)
        document = _document(actual)
        if isinstance(document, str):
            return f"the answer is no JSON document: {document}"
        if not self.paths:
            return self._differ(expected.json, document[0], "the document")
        for path in self.paths:
            wanted, found = _at(expected.json, path), _at(document[0], path)
            difference = self._differ(wanted, found, path)
            if difference:
                return difference
        return None

    def _differ(self, wanted: JsonValue, found: JsonValue, where: str) -> str | None:
        if isinstance(wanted, bool) or isinstance(found, bool) or wanted is None or found is None:
            return None if wanted is found else _unequal(where, wanted, found)
        if isinstance(wanted, int | float) and isinstance(found, int | float):
            near = math.isclose(wanted, found, rel_tol=0.0, abs_tol=self.tolerance)
            return None if near else _unequal(where, wanted, found)
        if isinstance(wanted, list) and isinstance(found, list):
            if len(wanted) != len(found):
                return f"{where} has {len(found)} items, expected {len(wanted)}"
            pairs = zip(map(str, range(len(wanted))), wanted, found, strict=True)
        elif isinstance(wanted, dict) and isinstance(found, dict):
            if wanted.keys() != found.keys():
                return f"{where} has the keys {sorted(found)}, expected {sorted(wanted)}"
            pairs = ((key, wanted[key], found[key]) for key in wanted)  # type: ignore[assignment]
        else:
            return None if wanted == found else _unequal(where, wanted, found)
        for key, inner, other in pairs:
            difference = self._differ(inner, other, f"{where}.{key}")
            if difference:
                return difference
        return None


def _document(answer: Answer) -> tuple[JsonValue] | str:
    try:
        return (json.loads(answer.body),)
    except ValueError:
        return repr(answer.body[:_SHOWN])


def _at(document: JsonValue, path: str) -> JsonValue:
    """Follow a dotted path; None where it leads nowhere."""
    value = document
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _unequal(where: str, wanted: JsonValue, found: JsonValue) -> str:
    return f"{where} is {str(found)[:_SHOWN]}, expected {str(wanted)[:_SHOWN]}"


def _bytes_differ(wanted: bytes, found: bytes) -> str | None:
    if wanted == found:
        return None
    pairs = enumerate(zip(wanted, found, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(wanted), len(found)))
    return (
        f"the body differs from byte {at} on: {found[at : at + 40]!r}, "
        f"expected {wanted[at : at + 40]!r}"
    )


def _known(value: Mapping[str, object], keys: set[str]) -> None:
    unknown = sorted(set(value) - keys)
    if unknown:
        raise GoldenInvalid(f"unknown keys {', '.join(unknown)}")


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or not value or any(c in value for c in "\r\n\0"):
        raise GoldenInvalid(f"{key} is not a line of text")
    return value


def _path(value: object) -> str:
    path = _text(value, "path")
    if not path.startswith("/") or " " in path:
        raise GoldenInvalid(f"path {path[:80]!r} does not start with / or has a space")
    return path


def _texts(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise GoldenInvalid(f"{key} is not a list of texts")
    return tuple(value)


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise GoldenInvalid("headers is not an object")
    return {_text(name, "a header"): _text(text, f"header {name}") for name, text in value.items()}


def _body(value: object, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """A text is sent as it is; anything else as JSON, with the content type that it has then."""
    if value is None:
        return b"", headers
    if isinstance(value, str):
        return value.encode(), headers
    if not any(name.lower() == "content-type" for name in headers):
        headers = {**headers, "Content-Type": "application/json"}
    return json.dumps(value).encode(), headers


def _port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 16:
        raise GoldenInvalid(f"port is {str(value)[:20]}")
    return value


def _mode(value: object) -> str:
    if value not in ("exact", "json"):
        raise GoldenInvalid(f"expect.mode is {str(value)[:20]!r}, neither exact nor json")
    return str(value)


def _tolerance(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise GoldenInvalid(f"expect.tolerance is {str(value)[:20]}")
    return float(value)
