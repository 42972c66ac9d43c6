"""A store in memory, held to the same contract as the real ones."""

import itertools
import threading

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobNotFound, SpanOutside, StoredBlob
from hotstart.store.lease_objects import LeaseEntry
from hotstart.store.references import (
    Reference,
    ReferenceChanged,
    ReferenceNotFound,
    encode_reference,
    read_reference,
)
from hotstart.store.stack import Store

URL = "memory:"


class Clock:
    """The store's clock: one second later at each look, so that every write has its own time."""

    def __init__(self):
        self._seconds = itertools.count(1)

    def __call__(self):
        return next(self._seconds) * 10**9


class MemoryBlobs:
    """Blobs in a dictionary."""

    url = URL

    def __init__(self, clock=None):
        self.contents: dict[Digest, bytes] = {}
        self.times: dict[Digest, int] = {}
        self.clock = clock or Clock()

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
        self.times[digest] = self.clock()

    def remove(self, digest):
        self._content(digest)
        del self.contents[digest]

    def digests(self):
        return iter([(digest, len(content)) for digest, content in self.contents.items()])

    def entries(self):
        return iter(
            [StoredBlob(digest, len(c), self.times[digest]) for digest, c in self.contents.items()]
        )

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
        return read_reference(self.url, name, document, str(Digest.of(document)))

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


class MemoryLeases:
    """Lease objects in a dictionary."""

    url = URL

    def __init__(self, clock=None):
        self.objects = {}
        self.clock = clock or Clock()

    def write(self, name, content):
        self.objects[name] = (bytes(content), self.clock())
        return self.objects[name][1]

    def read(self, name):
        return self.objects[name][0] if name in self.objects else None

    def entries(self):
        return [LeaseEntry(name, modified) for name, (_, modified) in self.objects.items()]

    def remove(self, name):
        self.objects.pop(name, None)


def memory_store(clock=None):
    """An empty store; everything in it goes by one clock."""
    clock = clock or Clock()
    return Store(URL, MemoryBlobs(clock), MemoryReferences(), MemoryLeases(clock))
