"""References: mutable names of manifests, replaced by compare-and-set only.

A name is ``repository[:tag]``: components of lower-case letters, digits and single ``. _ -``
between them, joined by ``/``; the tag defaults to ``latest``. Names below ``hotstart.trace/``
(recorded traces), ``hotstart.snapshot/`` (stateless snapshots that a run may use) and
``hotstart.relocation/`` (where rewritten packs lie) are reserved: no user gives them.

The stored document is canonical JSON ``{"name", "target", "version": 1}`` (docs/formats).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from hotstart.core import canonical_json
from hotstart.core.digest import Digest
from hotstart.core.errors import Conflict, IntegrityError, NotFound, UserError
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatInvalid, FormatVersionUnknown, check_version
from hotstart.store.json_document import parse_object

VERSION = 1
TRACE_PREFIX = "hotstart.trace/"
SNAPSHOT_PREFIX = "hotstart.snapshot/"
RELOCATION_PREFIX = "hotstart.relocation/"
MAX_REPOSITORY = 200

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HINT = "write repository:tag in lower case, for example team/app:v1"


class ReferenceNameInvalid(UserError):
    """A text is not the name of a reference."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a reference name: {text[:100]!r}", _HINT)
        self.text = text


class ReferenceNotFound(NotFound):
    """The store has no reference of this name."""

    def __init__(self, store_url: str, name: ReferenceName) -> None:
        super().__init__(f"{store_url}: no reference {name}", "list what is there: hotstart images")
        self.store_url = store_url
        self.name = name


class ReferenceChanged(Conflict):
    """The reference is not at the version that the change was based on."""

    def __init__(self, store_url: str, name: ReferenceName, expected: str | None) -> None:
        what = "exists already" if expected is None else "was changed by somebody else meanwhile"
        super().__init__(f"{store_url}: reference {name} {what}", "look at it, then try again")
        self.store_url = store_url
        self.name = name
        self.expected = expected


class ReferenceInvalid(FormatInvalid):
    """A stored reference is not a reference document."""

    format_name = "reference"


class ReferenceUnreadable(IntegrityError):
    """What is stored as a reference is no document that this program reads.

    ``version`` is the one that removing it takes.
    """

    def __init__(self, store_url: str, name: ReferenceName, version: str, reason: object) -> None:
        super().__init__(f"{store_url}: {name} cannot be read: {reason}")
        self.store_url = store_url
        self.name = name
        self.version = version
        self.hint = f"remove it: hotstart rm --image {name}"
        if name.repository.startswith(RELOCATION_PREFIX):  # images would be lost with it
            self.hint = "upgrade if a newer version wrote it, or restore it from a copy"


@dataclass(frozen=True, slots=True, order=True)
class ReferenceName:
    """``repository:tag``, checked. ``str()`` gives the full form."""

    repository: str
    tag: str = "latest"

    def __post_init__(self) -> None:
        if (
            len(self.repository) > MAX_REPOSITORY
            or not _REPOSITORY.fullmatch(self.repository)
            or not _TAG.fullmatch(self.tag)
        ):
            raise ReferenceNameInvalid(f"{self.repository}:{self.tag}")

    @classmethod
    def parse(cls, text: str) -> ReferenceName:
        """Read ``repository[:tag]``. Raises ReferenceNameInvalid (a UserError with a hint)."""
        repository, colon, tag = text.partition(":")
        try:
            return cls(repository, tag if colon else "latest")
        except ReferenceNameInvalid as err:
            raise ReferenceNameInvalid(text) from err

    @classmethod
    def trace_of(cls, manifest: Digest) -> ReferenceName:
        """Return the reserved name of the trace recorded for the image ``manifest``."""
        return cls(f"{TRACE_PREFIX}{manifest.hex}")

    @classmethod
    def relocation_of(cls, pack: Digest) -> ReferenceName:
        """Return the reserved name of what tells where the rewritten ``pack`` lies."""
        return cls(f"{RELOCATION_PREFIX}{pack.hex}")

    @classmethod
    def stateless_of(cls, image: Digest, start: Digest) -> ReferenceName:
        """Return the reserved name of the stateless snapshot of ``image`` started as ``start``.

        ``start`` is the digest of what was started: argv, environment, and the like.
        """
        return cls(f"{SNAPSHOT_PREFIX}{image.hex}/{start.hex}")

    @property
    def is_reserved(self) -> bool:
        """Whether the name is one of ours and not a user's image."""
        return self.repository.startswith((TRACE_PREFIX, SNAPSHOT_PREFIX, RELOCATION_PREFIX))

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a name points to, at one moment. ``version`` is the store's and opaque to everyone."""

    name: ReferenceName
    target: Descriptor
    version: str


def encode_reference(name: ReferenceName, target: Descriptor) -> bytes:
    """Return the stored document; inline data is never stored in a reference."""
    return canonical_json.encode(
        {"name": str(name), "target": target.without_data().to_json(), "version": VERSION}
    )


def decode_reference(content: bytes, name: ReferenceName) -> Descriptor:
    """Return the target of a stored document that must be ``name``'s.

    Raises ReferenceInvalid or FormatVersionUnknown.
    """
    fields = parse_object(content, ReferenceInvalid, canonical=True)
    check_version("reference", fields.take("version"), (VERSION,))
    stored_name = fields.text("name")
    target = Descriptor.from_json(fields.fields("target"), ReferenceInvalid)
    fields.finish()
    if stored_name != str(name):
        raise ReferenceInvalid(f"document is named {stored_name[:100]!r}, expected {str(name)!r}")
    return target


def read_reference(store_url: str, name: ReferenceName, content: bytes, version: str) -> Reference:
    """Return the reference stored as ``content``. Raises ReferenceUnreadable."""
    try:
        return Reference(name, decode_reference(content, name), version)
    except (ReferenceInvalid, FormatVersionUnknown) as err:
        raise ReferenceUnreadable(store_url, name, version, err) from err


class ReferenceStore(Protocol):
    """Names of manifests. Every method may raise StoreUnavailable, StoreDenied or StoreReadOnly."""

    @property
    def url(self) -> str:
        """Where the store is, for messages."""
        ...

    def get(self, name: ReferenceName) -> Reference:
        """Return what ``name`` points to now.

        Raises ReferenceNotFound (a NotFound) or ReferenceUnreadable (an IntegrityError).
        """
        ...

    def swap(self, name: ReferenceName, target: Descriptor, expected: str | None) -> Reference:
        """Point ``name`` to ``target`` if its version is ``expected`` (None: it must not exist).

        Of several racing swaps with one expectation exactly one wins; the others raise
        ReferenceChanged (a Conflict). What was there stays intact until the new one is durable.
        """
        ...

    def remove(self, name: ReferenceName, expected: str) -> None:
        """Remove ``name`` if its version is ``expected``.

        Raises ReferenceNotFound or ReferenceChanged.
        """
        ...

    def names(self) -> Iterator[ReferenceName]:
        """Yield every name, reserved ones too, sorted."""
        ...
