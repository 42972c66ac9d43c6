"""What pulls keep stands in for a store that does not answer, and for nothing else."""

from types import SimpleNamespace

import pytest

from agent.pulled import Pulled
from hotstart.core.digest import Digest
from hotstart.core.errors import NotFound, Unavailable, UserError
from hotstart.store import media_types
from hotstart.store.blob_store import StoreDenied, StoreUnavailable
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import Reference, ReferenceName, ReferenceNotFound
from hotstart.store.stack import Store

NAME = ReferenceName.parse("app:v1")
CONFIG = Descriptor.of(media_types.OCI_MANIFEST, b"{}")
URL = "s3://bucket/prefix"


class Manifest:
    """As much of an image's manifest as is kept."""

    def __init__(self, content):
        self.content, self.config = content, CONFIG

    def to_bytes(self):
        return self.content

    def descriptor(self):
        return Descriptor.of(media_types.OCI_MANIFEST, self.content)


MANIFEST = Manifest(b"manifest")


class Place:
    """A store: ``error`` is what it answers to everything."""

    url = URL
    error = None

    def __init__(self):
        self.target = MANIFEST.descriptor()
        self.asked = 0

    def get(self, name):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Reference(name, self.target, "1")

    def read(self, digest, span=None):
        if self.error is not None:
            raise self.error
        return b"{}"


@pytest.fixture
def place():
    return Place()


@pytest.fixture
def pulled(tmp_path, place):
    kept = Pulled(tmp_path / "pulled", lambda url: Store(URL, place, place, SimpleNamespace()))
    kept.keep(URL, "app:v1", MANIFEST)
    return kept


def told():
    lines = []
    return lines, lines.append


def test_a_store_that_does_not_answer_is_stood_in_for_and_asked_once(pulled, place):
    place.error = StoreUnavailable(URL, "no route to host")
    lines, tell = told()
    store = pulled.store(URL, tell)
    found = store.references.get(NAME)
    assert found.target == MANIFEST.descriptor()
    assert store.blobs.read(found.target.digest) == b"manifest"
    assert store.blobs.read(CONFIG.digest) == b"{}"
    with pytest.raises(NotFound):
        store.references.get(ReferenceName.trace_of(found.target.digest))
    assert place.asked == 1
    assert lines == [f"{URL} does not answer: app:v1 is taken as it was pulled"]
    with pytest.raises(Unavailable):
        store.blobs.read(Digest.of(b"another"))


@pytest.mark.parametrize(
    "error", [ReferenceNotFound(URL, NAME), StoreDenied(URL, "GET")], ids=["gone", "denied"]
)
def test_an_answer_of_the_store_stays_an_error(pulled, place, error):
    place.error = error
    lines, tell = told()
    with pytest.raises(UserError) as caught:
        pulled.store(URL, tell).references.get(NAME)
    assert caught.value is error
    assert lines == []


@pytest.mark.parametrize("answer", ["gone", "moved"])
def test_what_the_store_says_otherwise_makes_it_forgotten(pulled, place, answer):
    if answer == "gone":
        place.error = ReferenceNotFound(URL, NAME)
        with pytest.raises(NotFound):
            pulled.store(URL, print).references.get(NAME)
    else:
        place.target = Manifest(b"newer").descriptor()
        assert pulled.store(URL, print).references.get(NAME).target == place.target
    place.error = StoreUnavailable(URL, "no route to host")
    with pytest.raises(Unavailable):
        pulled.store(URL, print).references.get(NAME)


def test_what_was_damaged_on_the_disk_is_as_good_as_none(pulled, place, tmp_path):
    (kept,) = (tmp_path / "pulled").iterdir()
    wrong = kept.read_text().replace("bWFuaWZlc3Q=", "bWFuaWZlc3U=")
    for content in (wrong, "{", ""):
        kept.write_text(content)
        place.error = StoreUnavailable(URL, "no route to host")
        with pytest.raises(Unavailable):
            pulled.store(URL, print).references.get(NAME)
