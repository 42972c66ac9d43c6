"""Who follows a reference reads no more of its manifest than it says, and at most MAX_BYTES."""

from contextlib import suppress
from dataclasses import replace

import pytest

from cli.stored import load
from hotstart.core.errors import IntegrityError
from hotstart.store import manifest as manifest_module
from hotstart.store import media_types, publishing
from hotstart.store.descriptor import Descriptor
from hotstart.store.publishing import retire
from hotstart.store.reach import Reach
from hotstart.store.references import ReferenceName
from image_builder.build import base_devices, base_of, touched_chunks
from tests.fakes.memory_store import memory_store
from tests.store.small_images import FEW, name_it

LIMIT = 1 << 16
NAME = ReferenceName("bad")


class Counting:
    """Blobs, and how many bytes were read of them."""

    def __init__(self, inner):
        self.inner, self.bytes = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, digest, span=None):
        content = self.inner.read(digest, span)
        self.bytes += len(content)
        return content


READERS = {
    "gc": lambda store: Reach(store).of_references([store.references.get(NAME)]),
    "retire": lambda store: retire(store, store.references.get(NAME).target),
    "verify, inspect": lambda store: load(store, NAME),
    "build --base": lambda store: base_devices(store, base_of(store, "bad")),
    "build --trace": lambda store: touched_chunks(store, "bad"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("said", [2, LIMIT, LIMIT + 1])
def test_of_a_blob_that_is_no_manifest_no_more_is_read_than_its_reference_says(
    monkeypatch, read, said
):
    for module in (manifest_module, publishing):
        monkeypatch.setattr(module, "MAX_BYTES", LIMIT)
    model = memory_store()
    store = replace(model, blobs=Counting(model.blobs))
    content = bytes(4 * LIMIT)
    target = replace(Descriptor.of(media_types.OCI_MANIFEST, content), size=said)
    store.blobs.put(target.digest, content)
    store.references.swap(NAME, target, None)
    with suppress(IntegrityError):
        assert read(store) is None  # only retire may pass it over
    assert store.blobs.bytes in ((said, 2 * said) if said <= LIMIT else (0,))


def test_a_manifest_of_a_later_version_is_retired_too():
    """Older programs must not let go of what only newer ones can read."""
    store = memory_store()
    name_it(store, "few", FEW)
    content = FEW.manifest.to_bytes().replace(b'"schemaVersion":2', b'"schemaVersion":9')
    target = Descriptor.of(media_types.OCI_MANIFEST, content)
    store.blobs.put(target.digest, content)
    before = store.blobs.times[target.digest]
    retire(store, target)
    assert store.blobs.times[target.digest] > before
