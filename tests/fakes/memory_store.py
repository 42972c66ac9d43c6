"""A store in memory, held to the same contract as the real ones."""

import threading

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobNotFound, SpanOutside
from hotstart.store.references import (
    Reference,
    ReferenceChanged,
    ReferenceNotFound,
    decode_reference,
    encode_reference,
)
from hotstart.store.stack import Store

URL = "memory:"


class MemoryBlobs:
    """Blobs in a dictionary."""

    url = URL

    def __init__(self):
        self.contents: dict[Digest, bytes] = {}

    def read(self, digest, span=None):
        content = self._content(digest)
        wanted = Span(0, len(content)) if span is None else span
        if wanted.end > len(content):
            raise SpanOutside(self.url, digest, wanted)
        return content[wanted.offset : wanted.end]

    def size(self, digest):
        return len(self._content(digest))

    def has(self, digest):
        return digest in self.contents

    def put(self, digest, content, *, is_checked=False):
        if not is_checked:
            digest.check(content, "blob to be stored")
        self.contents[digest] = bytes(content)

    def remove(self, digest):
        self._content(digest)
        del self.contents[digest]

    def digests(self):
        return iter([(digest, len(content)) for digest, content in self.contents.items()])

    def _content(self, digest):
        try:
            return self.contents[digest]
        except KeyError as err:
            raise BlobNotFound(self.url, digest) from err


class MemoryReferences:
    """References in a dictionary, as the documents that a real store would hold."""

    url = URL

    def __init__(self):
        self._lock = threading.Lock()
        self._documents: dict = {}

    def get(self, name):
        with self._lock:
            document = self._documents.get(name)
        if document is None:
            raise ReferenceNotFound(self.url, name)
        return Reference(name, decode_reference(document, name), str(Digest.of(document)))

    def swap(self, name, target, expected):
        document = encode_reference(name, target)
        with self._lock:
            if self._version(name) != expected:
                raise ReferenceChanged(self.url, name, expected)
            self._documents[name] = document
        return Reference(name, target.without_data(), str(Digest.of(document)))

    def remove(self, name, expected):
        with self._lock:
            version = self._version(name)
            if version is None:
                raise ReferenceNotFound(self.url, name)
            if version != expected:
                raise ReferenceChanged(self.url, name, expected)
            del self._documents[name]

    def names(self):
        with self._lock:
            return iter(sorted(self._documents))

    def _version(self, name):
        document = self._documents.get(name)
        return None if document is None else str(Digest.of(document))


def memory_store():
    """An empty store."""
    return Store(URL, MemoryBlobs(), MemoryReferences())
