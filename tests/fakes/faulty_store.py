"""Stores that fail as a script says, one word per call: ``"ok timeout short corrupt ok"``.

    ok        the call goes through
    timeout   StoreUnavailable, nothing is done
    short     StoreUnavailable, as a backend answers a body that ended early
    lost      the call goes through, and its answer is lost: StoreUnavailable
    denied    StoreDenied
    corrupt   reads only: the last byte comes flipped

After the script's end every call goes through. ``calls`` counts them all.
"""

import threading

from hotstart.store.blob_store import StoreDenied, StoreUnavailable

_UNDONE = {"timeout": "no answer in time", "short": "the body ended early"}


class _Script:
    def __init__(self, script, url):
        self._words = script.split()
        self._lock = threading.Lock()
        self._url = url
        self.calls = 0

    def run(self, operation, *, reads=False):
        with self._lock:
            self.calls += 1
            word = self._words.pop(0) if self._words else "ok"
        if word in _UNDONE:
            raise StoreUnavailable(self._url, _UNDONE[word])
        if word == "denied":
            raise StoreDenied(self._url, "the script says so")
        result = operation()
        if word == "lost":
            raise StoreUnavailable(self._url, "the answer was lost")
        if word == "corrupt":
            assert reads, "only reads can come corrupt"
            content = bytearray(result)
            content[-1] ^= 1
            return bytes(content)
        assert word == "ok", word
        return result


class _Faulty:
    def __init__(self, inner, script):
        self.inner = inner
        self.url = inner.url
        self._script = _Script(script, inner.url)

    @property
    def calls(self):
        return self._script.calls


class FaultyBlobs(_Faulty):
    """Blobs that fail by script."""

    def read(self, digest, span=None):
        return self._script.run(lambda: self.inner.read(digest, span), reads=True)

    def size(self, digest):
        return self._script.run(lambda: self.inner.size(digest))

    def has(self, digest):
        return self._script.run(lambda: self.inner.has(digest))

    def put(self, digest, content, *, is_checked=False):
        return self._script.run(lambda: self.inner.put(digest, content, is_checked=is_checked))

    def remove(self, digest):
        return self._script.run(lambda: self.inner.remove(digest))

    def digests(self):
        return self._script.run(lambda: iter(list(self.inner.digests())))


class FaultyReferences(_Faulty):
    """References that fail by script."""

    def get(self, name):
        return self._script.run(lambda: self.inner.get(name))

    def swap(self, name, target, expected):
        return self._script.run(lambda: self.inner.swap(name, target, expected))

    def remove(self, name, expected):
        return self._script.run(lambda: self.inner.remove(name, expected))

    def names(self):
        return self._script.run(lambda: iter(list(self.inner.names())))
