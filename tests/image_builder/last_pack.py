"""A store in which the last pack of a build fails, after all that is made beside its upload."""

import threading
from dataclasses import replace

from hotstart.store.blob_store import StoreFull


class LastPackFails:
    """Blobs that refuse ``pack``, once all of ``beside`` are stored; the rest goes through."""

    def __init__(self, inner, pack, beside):
        self._inner = inner
        self._pack = pack
        self._missing = set(beside)
        self._complete = threading.Event()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def put(self, digest, content, *, is_checked=False):
        if digest == self._pack:
            assert self._complete.wait(20), f"not stored beside the last pack: {self._missing}"
            raise StoreFull(self.url)
        self._inner.put(digest, content, is_checked=is_checked)
        self._missing.discard(digest)
        if not self._missing:
            self._complete.set()


def without_its_last_pack(store, manifest):
    """Return ``store`` with which a build of what ``manifest`` was built of fails at the end."""
    device = manifest.devices[-1]
    beside = (manifest.bootstrap.digest, device.table.digest)
    blobs = LastPackFails(store.blobs, device.packs[-1].digest, beside)
    return replace(store, blobs=blobs)
