"""Golden requests and the comparison of their answers. Pure: sending is runtime's job.

A request file holds one JSON object:

    {"method": "POST", "path": "/embed", "port": 8000, "headers": {...}, "body": "..." or any JSON,
     "expect": {"mode": "exact" | "json", "paths": ["data.0.vector"], "tolerance": 1e-4}}
    {"exec": ["program", "word"], "expect": {...}}

``exact`` compares status and bytes. ``json`` compares status and the values at ``paths`` (all of
the document without paths); numbers may differ by ``tolerance``, everything else may not. A path is
keys and list positions joined by dots. The expected answer is taken live, before the freeze.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from hotstart.core.errors import UserError

Json: TypeAlias = Any

MAX_FILE_BYTES = 16 << 20
_REQUEST_KEYS = {"method", "path", "port", "headers", "body", "exec", "expect"}
_EXPECT_KEYS = {"mode", "paths", "tolerance"}

# What can be sent (RFC 9110, RFC 9112); header values are sent in Latin-1.
_METHOD = re.compile("[A-Za-z]+")
_PATH = re.compile("/[!-~]*")
_HEADER_NAME = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile("[\t -~\xa0-\xff]*")


class GoldenInvalid(UserError):
    """A golden request does not have the shape of one."""

    def __init__(self, source: str, what: str) -> None:
        super().__init__(
            f"{source}: {what}", "docs/cli.md shows what a golden request file looks like"
        )


class PathMissing(Exception):
    """A JSON answer has nothing at a path. The message names the path and where it ends."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How an answer is compared; ``tolerance`` is an absolute difference of numbers."""

    mode: str = "exact"
    paths: tuple[str, ...] = ()
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class GoldenRequest:
    """One request: over HTTP to a port of the container, or a program run in it (``exec``)."""

    method: str = "GET"
    path: str = "/"
    port: int = 0
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    body: bytes = b""
    exec: tuple[str, ...] = ()
    expect: Expectation = Expectation()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: an HTTP status or an exit status, and the body or standard output."""

    status: int
    body: bytes


def load(path: Path) -> GoldenRequest:
    """Read a request file. Raises GoldenInvalid, or UserError if it can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as err:
        raise UserError(f"{path}: can't read the golden request: {err.strerror}") from err
    if len(content) > MAX_FILE_BYTES:
        raise GoldenInvalid(str(path), f"larger than {MAX_FILE_BYTES} bytes")
    return parse(content, str(path))


def parse(content: bytes, source: str) -> GoldenRequest:
    """Read a request's JSON. Raises GoldenInvalid, which names ``source`` and what is wrong."""
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as err:
        raise GoldenInvalid(source, "a string in it has half of a surrogate pair") from err
    except (ValueError, RecursionError) as err:
        raise GoldenInvalid(source, f"not JSON: {err}") from err
    if not isinstance(value, dict):
        raise GoldenInvalid(source, "not a JSON object")
    unknown = sorted(set(value) - _REQUEST_KEYS)
    if unknown:
        raise GoldenInvalid(source, f"unknown keys {', '.join(unknown)}")
    expect = _expectation(value.get("expect", {}), source)
    if "exec" in value:
        return GoldenRequest(exec=_argv(value, source), expect=expect)
    return _http(value, expect, source)


def _argv(value: dict[str, Json], source: str) -> tuple[str, ...]:
    argv = value["exec"]
    if not (isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv)):
        raise GoldenInvalid(source, "exec is not a list of words")
    if any("\0" in word for word in argv):
        raise GoldenInvalid(source, "a word of exec has a null character")
    if set(value) - {"exec", "expect"}:
        raise GoldenInvalid(source, "exec goes with expect only")
    return tuple(argv)


def _http(value: dict[str, Json], expect: Expectation, source: str) -> GoldenRequest:
    method, path, port = value.get("method", "GET"), value.get("path", "/"), value.get("port")
    headers = value.get("headers", {})
    if not (isinstance(method, str) and _METHOD.fullmatch(method)):
        raise GoldenInvalid(source, f"method is {method!r}")
    if not (isinstance(path, str) and _PATH.fullmatch(path)):
        what = "it begins with / and has only ASCII, everything else as %XX"
        raise GoldenInvalid(source, f"path is {path!r}, {what}")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise GoldenInvalid(source, "port is missing or not a port of the container")
    if not _are_headers(headers):
        what = "headers are not an object of one-line strings, names ASCII and values Latin-1"
        raise GoldenInvalid(source, what)
    return GoldenRequest(method.upper(), path, port, headers, _body(value.get("body")), (), expect)


def _are_headers(value: Json) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str) and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(text)
        for name, text in value.items()
    )


def _body(value: Json) -> bytes:
    """A string is sent as it is, other JSON as its text."""
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def _expectation(value: Json, source: str) -> Expectation:
    if not isinstance(value, dict) or set(value) - _EXPECT_KEYS:
        raise GoldenInvalid(source, f"expect takes {', '.join(sorted(_EXPECT_KEYS))} only")
    mode = value.get("mode", "json" if "paths" in value or "tolerance" in value else "exact")
    paths, tolerance = value.get("paths", []), value.get("tolerance", 0.0)
    if mode not in ("exact", "json"):
        raise GoldenInvalid(source, f"expect.mode is {mode!r}, expected exact or json")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise GoldenInvalid(source, "expect.paths is not a list of strings")
    if not _is_number(tolerance) or not 0 <= tolerance < math.inf:
        raise GoldenInvalid(source, "expect.tolerance is not a number >= 0")
    if mode == "exact" and (paths or tolerance):
        raise GoldenInvalid(source, "expect.paths and expect.tolerance need mode json")
    return Expectation(mode, tuple(paths), float(tolerance))


def compare(expect: Expectation, expected: Answer, actual: Answer) -> str | None:
    """Return None for an equal answer, else one sentence that says what differs and where."""
    if actual.status != expected.status:
        return f"status is {actual.status}, expected {expected.status}"
    if expect.mode == "exact":
        return _compare_bytes(expected.body, actual.body)
    try:
        wanted, found = json.loads(expected.body), json.loads(actual.body)
    except ValueError as err:
        return f"the answer is not JSON: {err}"
    for path in expect.paths or ("",):
        try:
            reason = _compare_values(value_at(wanted, path), value_at(found, path), path, expect)
        except PathMissing as err:
            return str(err)
        if reason is not None:
            return reason
    return None


def _compare_bytes(expected: bytes, actual: bytes) -> str | None:
    if expected == actual:
        return None
    both = min(len(expected), len(actual))
    at = next((i for i in range(both) if expected[i] != actual[i]), both)
    return (
        f"the body differs from byte {at} on: {actual[at : at + 20]!r}, "
        f"expected {expected[at : at + 20]!r} ({len(actual)} bytes, expected {len(expected)})"
    )


def value_at(document: Json, path: str) -> Json:
    """Return the value at ``path`` (empty: the document). Raises PathMissing."""
    value = document
    for key in path.split(".") if path else ():
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise PathMissing(f"the answer has nothing at {path!r} (no {key!r})")
    return value


def _compare_values(expected: Json, actual: Json, where: str, expect: Expectation) -> str | None:
    if _is_number(expected) and _is_number(actual):
        near = expected == actual or abs(expected - actual) <= expect.tolerance
        return None if near else _differs(where, expected, actual)
    if type(expected) is not type(actual):
        return _differs(where, expected, actual)
    if isinstance(expected, dict):
        if set(expected) != set(actual):
            return _differs(
                f"the keys of {where or 'the document'}", sorted(expected), sorted(actual)
            )
        pairs = [(key, expected[key], actual[key]) for key in expected]
    elif isinstance(expected, list):
        if len(expected) != len(actual):
            return _differs(f"the length of {where or 'the list'}", len(expected), len(actual))
        pairs = [(str(i), *both) for i, both in enumerate(zip(expected, actual, strict=True))]
    else:
        return None if expected == actual else _differs(where, expected, actual)
    for key, wanted, found in pairs:
        reason = _compare_values(wanted, found, f"{where}.{key}" if where else key, expect)
        if reason is not None:
            return reason
    return None


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _differs(where: str, expected: Json, actual: Json) -> str:
    return f"{where or 'the answer'} is {str(actual)[:80]}, expected {str(expected)[:80]}"
