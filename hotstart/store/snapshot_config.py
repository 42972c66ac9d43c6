"""SnapshotConfig: everything a restore must know that is neither bytes of files nor of memory.

Canonical JSON, versioned (docs/formats/snapshot-config.md); unknown keys are refused by name, so
no program half-understands a snapshot. Version 1 is read, version 2 written. ``fingerprint`` and
the requests of goldens are JSON objects whose meaning belongs to the snapshotter; here they are
only kept.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

from hotstart.core import canonical_json
from hotstart.core.digest import Digest
from hotstart.core.span import PAGE
from hotstart.store.format_errors import FormatInvalid, check_version
from hotstart.store.json_document import MAX_NUMBER, Fields, JsonValue, parse_object

VERSION = 2
_READ = (1, VERSION)
REHEARSED = "rehearsed"
"""Verdict: the snapshot was restored once and its golden requests were answered equally."""
READY_CHECKED = "ready-checked only"
"""Verdict: there was no golden request; the restored process only became ready."""


class SnapshotConfigInvalid(FormatInvalid):
    """Bytes are not the configuration of a snapshot."""

    format_name = "snapshot config"


@dataclass(frozen=True, slots=True)
class ExpectedAnswer:
    """What the frozen process answered: HTTP status (or exit status) and what must be equal.

    ``headers`` is the subset to compare. ``body`` is exact bytes; ``json`` a parsed document. Of a
    large body only ``body_digest`` and its length ``body_bytes`` are kept, both or neither.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    body: bytes | None = None
    json: JsonValue = field(default=None, hash=False)
    body_digest: Digest | None = None
    body_bytes: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form; absent parts are left out."""
        value: dict[str, JsonValue] = {"status": self.status, "headers": dict(self.headers)}
        if self.body is not None:
            value["body"] = base64.b64encode(self.body).decode()
        if self.body_digest is not None:
            value["body_digest"] = str(self.body_digest)
            value["body_bytes"] = self.body_bytes
        if self.json is not None:
            value["json"] = self.json
        return value

    @classmethod
    def from_fields(cls, fields: Fields, version: int) -> ExpectedAnswer:
        """Read the JSON form."""
        status = fields.number("status", highest=999)
        headers = fields.text_mapping("headers")
        body = _base64(fields, "body") if fields.has("body") else None
        json = fields.take("json") if fields.has("json") else None
        digest, length = None, None
        if version > 1 and body is None and fields.has("body_digest"):
            digest, length = fields.digest("body_digest"), fields.number("body_bytes")
        fields.finish()
        return cls(status, headers, body, json, digest, length)


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden request, as its file says it, and the answer expected for it."""

    request: Mapping[str, JsonValue] = field(hash=False)
    expected: ExpectedAnswer

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {"request": dict(self.request), "expected": self.expected.to_json()}

    @classmethod
    def from_fields(cls, fields: Fields, version: int) -> Golden:
        """Read the JSON form."""
        expected = ExpectedAnswer.from_fields(fields.fields("expected"), version)
        golden = cls(fields.mapping("request"), expected)
        fields.finish()
        return golden


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A file of the dump that holds memory pages: its path in the dump, its place in device 0."""

    path: str
    device_offset: int
    size_bytes: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {
            "path": self.path,
            "device_offset": self.device_offset,
            "size_bytes": self.size_bytes,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> MemoryFile:
        """Read the JSON form."""
        file = cls(fields.text("path"), fields.number("device_offset"), fields.number("size_bytes"))
        fields.finish()
        if file.device_offset % PAGE:
            raise SnapshotConfigInvalid(f"memory file {file.path[:80]!r} is not on a page")
        return file


@dataclass(frozen=True, slots=True)
class ExternalMount:
    """A mount that the restore must give to CRIU under ``key`` at ``path`` in the container."""

    path: str
    key: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {"path": self.path, "key": self.key}

    @classmethod
    def from_fields(cls, fields: Fields) -> ExternalMount:
        """Read the JSON form."""
        mount = cls(fields.text("path"), fields.text("key"))
        fields.finish()
        return mount


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotConfig:
    """How to run a snapshot again. Sizes in bytes, ``cpus`` in cores, None meaning no limit.

    ``upper``: the snapshot holds a writable layer. ``stdio_pipes``: CRIU's names of the pipes
    that were stdin, stdout and stderr. ``ready``: the readiness probe as the command line takes it.
    ``start_key`` names the way in which the image was started (hex); "" where nobody knows it.
    """

    image_reference: str
    argv: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str
    stop_signal: str = "SIGTERM"
    hostname: str
    ready: str | None
    ports: tuple[int, ...]
    volumes: tuple[str, ...]
    memory_bytes: int | None
    cpus: float | None
    stateful: bool
    verdict: str
    goldens: tuple[Golden, ...]
    fingerprint: Mapping[str, JsonValue] = field(hash=False)
    criu_version: str
    memory_files: tuple[MemoryFile, ...]
    read_ahead_kib: int
    upper: bool
    stdio_pipes: tuple[str, ...]
    external_mounts: tuple[ExternalMount, ...]
    created_ns: int
    start_key: str = ""

    def to_bytes(self) -> bytes:
        """Return the canonical bytes. Raises ValueError for values that no reader takes."""
        value: dict[str, JsonValue] = {"version": VERSION}
        for name in _PLAIN:
            value[name] = getattr(self, name)
        for name in _LISTS:
            value[name] = list(getattr(self, name))
        for name in _OBJECTS:
            value[name] = [item.to_json() for item in getattr(self, name)]
        value["fingerprint"] = dict(self.fingerprint)
        content = canonical_json.encode(value)
        try:
            SnapshotConfig.parse(content)
        except SnapshotConfigInvalid as err:
            raise ValueError(str(err)) from err
        return content

    @classmethod
    def parse(cls, content: bytes) -> SnapshotConfig:
        """Read canonical bytes. Raises SnapshotConfigInvalid or FormatVersionUnknown."""
        fields = parse_object(content, SnapshotConfigInvalid, canonical=True)
        named = fields.take("version")
        check_version("snapshot config", named, _READ)
        version = 1 if named == 1 else VERSION
        config = cls(
            image_reference=fields.text("image_reference"),
            argv=fields.texts("argv"),
            env=fields.texts("env"),
            workdir=fields.text("workdir"),
            user=fields.text("user"),
            stop_signal=fields.text("stop_signal") if version > 1 else "SIGTERM",
            hostname=fields.text("hostname"),
            ready=fields.optional_text("ready"),
            ports=_ports(fields),
            volumes=fields.texts("volumes"),
            memory_bytes=_optional_number(fields, "memory_bytes"),
            cpus=_cpus(fields),
            stateful=fields.flag("stateful"),
            verdict=_verdict(fields),
            goldens=tuple(Golden.from_fields(item, version) for item in fields.each("goldens")),
            fingerprint=fields.mapping("fingerprint"),
            criu_version=fields.text("criu_version"),
            memory_files=tuple(MemoryFile.from_fields(i) for i in fields.each("memory_files")),
            read_ahead_kib=fields.number("read_ahead_kib", highest=1 << 20),
            upper=fields.flag("upper"),
            stdio_pipes=fields.texts("stdio_pipes"),
            external_mounts=tuple(
                ExternalMount.from_fields(item) for item in fields.each("external_mounts")
            ),
            created_ns=fields.number("created_ns"),
            start_key=fields.text("start_key") if version > 1 else "",
        )
        fields.finish()
        if not config.argv:
            raise SnapshotConfigInvalid("argv is empty")
        return config


_PLAIN = (
    "image_reference",
    "workdir",
    "user",
    "stop_signal",
    "hostname",
    "ready",
    "memory_bytes",
    "cpus",
    "stateful",
    "verdict",
    "criu_version",
    "read_ahead_kib",
    "upper",
    "created_ns",
    "start_key",
)
_LISTS = ("argv", "env", "ports", "volumes", "stdio_pipes")
_OBJECTS = ("goldens", "memory_files", "external_mounts")


def _base64(fields: Fields, key: str) -> bytes:
    text = fields.text(key)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise fields.wrong(key, "is not base64") from err
    if base64.b64encode(content).decode() != text:
        raise fields.wrong(key, "is not base64 in its canonical spelling")
    return content


def _ports(fields: Fields) -> tuple[int, ...]:
    ports: list[int] = []
    for port in fields.items("ports"):
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 1 << 16:
            raise fields.wrong("ports", f"holds {str(port)[:40]}, which is no port")
        ports.append(port)
    return tuple(ports)


def _optional_number(fields: Fields, key: str) -> int | None:
    value = fields.take(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_NUMBER:
        raise fields.wrong(key, "is neither a whole number nor null")
    return value


def _cpus(fields: Fields) -> float | None:
    value = fields.take("cpus")
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1 << 20:
        raise fields.wrong("cpus", "is neither a positive number nor null")
    return value


def _verdict(fields: Fields) -> str:
    verdict = fields.text("verdict")
    if verdict not in (REHEARSED, READY_CHECKED):
        raise fields.wrong("verdict", f"is {verdict[:40]!r}")
    return verdict
