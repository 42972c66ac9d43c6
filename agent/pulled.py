"""What pulls have made local, by name: a start of it needs no store.

    ROOT/pulled/HEX.json    what one reference named when it was pulled: its manifest, and its
                            image's config. HEX is the SHA-256 of the store's URL and the name.

It stands in only while the store does not answer; one that answers is always believed, and what it
says otherwise (another target, no such name) makes us forget what was pulled. Kept bytes are looked
up by their own digest, so a damaged file is as good as none. Thread-safe.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError, Unavailable, UserError
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobStore, Content
from hotstart.store.descriptor import Descriptor
from hotstart.store.manifest import Manifest, SnapshotManifest
from hotstart.store.references import (
    Reference,
    ReferenceName,
    ReferenceNotFound,
    ReferenceStore,
)
from hotstart.store.stack import Store
from hotstart.store.verifying import VerifyingBlobs

log = get_logger(__name__)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a name pointed to, and the small blobs that a start reads."""

    target: Descriptor
    blobs: Mapping[Digest, bytes]


class Pulled:
    """Keeps what starts ask of the store first, for names that were pulled."""

    def __init__(self, directory: Path, open_store: Callable[[str], Store]) -> None:
        """``directory`` is made when something is kept."""
        self._directory = directory
        self._open_store = open_store

    def keep(self, store_url: str, reference: str, manifest: Manifest) -> None:
        """Keep what a reference that is wholly local names. Raises what the store raises."""
        store, name = self._open_store(store_url), ReferenceName.parse(reference)
        image = manifest.image() if isinstance(manifest, SnapshotManifest) else manifest
        blobs = [manifest.to_bytes()]
        if image.config.data is None:
            blobs.append(bytes(store.blobs.read(image.config.digest)))
        document = {
            "target": manifest.descriptor().to_json(),
            "blobs": [base64.b64encode(blob).decode() for blob in blobs],
        }
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._directory, delete=False) as file:
                json.dump(document, file)
            Path(file.name).replace(self._path(store.url, name))
        except OSError as err:
            raise UserError(f"{self._directory}: {err.strerror}", "make room for it") from err

    def store(self, store_url: str, tell: Tell) -> Store:
        """Return the store for one start, with what was pulled behind it.

        ``tell`` hears of it when that is used. Raises what opening the store raises.
        """
        store = self._open_store(store_url)
        references = _References(store.references, self, tell)
        blobs = _Blobs(store.blobs, references)
        return Store(store.url, blobs, references, store.leases)

    def find(self, store_url: str, name: ReferenceName) -> _Kept | None:
        """Return what was pulled under a name; None: nothing that can be read."""
        try:
            value = json.loads(self._path(store_url, name).read_bytes())
            blobs = [base64.b64decode(text, validate=True) for text in value["blobs"]]
            kept = _Kept(
                Descriptor.from_json(value["target"]), {Digest.of(blob): blob for blob in blobs}
            )
        except (OSError, ValueError, KeyError, TypeError, HotstartError):
            return None
        return kept if kept.target.digest in kept.blobs else None

    def forget(self, store_url: str, name: ReferenceName) -> None:
        """Let go of what was pulled under a name; no error if nothing was."""
        self._path(store_url, name).unlink(missing_ok=True)

    def _path(self, store_url: str, name: ReferenceName) -> Path:
        key = hashlib.sha256(f"{store_url}\n{name}".encode()).hexdigest()
        return self._directory / f"{key}.json"


class _References:
    """The store's references; those that were pulled also while it is away.

    Once it was away it is not asked again: each question costs the time of all its repetitions.
    """

    def __init__(self, inner: ReferenceStore, pulled: Pulled, tell: Tell) -> None:
        self._inner, self._pulled, self._tell = inner, pulled, tell
        self.kept: _Kept | None = None

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    def get(self, name: ReferenceName) -> Reference:
        """Return what ``name`` points to, or pointed to when it was pulled if nobody answers."""
        if self.kept is not None:
            raise ReferenceNotFound(self.url, name)  # help for a start that is recorded there
        try:
            found = self._inner.get(name)
        except (Unavailable, ReferenceNotFound) as err:
            return self._pulled_one(name, err)
        self._compare(name, found)
        return found

    def swap(self, name: ReferenceName, target: Descriptor, expected: str | None) -> Reference:
        """Change the store's."""
        return self._inner.swap(name, target, expected)

    def remove(self, name: ReferenceName, expected: str) -> None:
        """Remove the store's."""
        self._inner.remove(name, expected)

    def names(self) -> Iterator[ReferenceName]:
        """Yield the store's."""
        return self._inner.names()

    def _pulled_one(self, name: ReferenceName, err: HotstartError) -> Reference:
        if not isinstance(err, Unavailable) and not _is_gone(self.url):
            self._pulled.forget(self.url, name)
            raise err
        self.kept = self._pulled.find(self.url, name)
        if self.kept is None:
            raise err
        log.warning("store_away", store=self.url, reference=name, used="what was pulled", error=err)
        self._tell(f"{self.url} does not answer: {name} is taken as it was pulled")
        return Reference(name, self.kept.target, str(self.kept.target.digest))

    def _compare(self, name: ReferenceName, found: Reference) -> None:
        kept = self._pulled.find(self.url, name)
        if kept is not None and kept.target.digest != found.target.digest:
            self._pulled.forget(self.url, name)


class _Blobs(VerifyingBlobs):
    """The store's blobs, and first those that were pulled with the reference in use."""

    def __init__(self, inner: BlobStore, references: _References) -> None:
        super().__init__(inner)
        self._references = references

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return a blob's bytes."""
        kept = self._references.kept
        content = None if kept is None else kept.blobs.get(digest)
        if content is None:
            return self._inner.read(digest, span)
        return content if span is None else content[span.offset : span.end]


def _is_gone(store_url: str) -> bool:
    """Tell whether a store's directory is not there, not mounted for example: it says nothing."""
    parts = urlsplit(store_url)
    return parts.scheme == "file" and not Path(unquote(parts.path)).is_dir()
