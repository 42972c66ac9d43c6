"""The far store for real: a directory store copied into SeaweedFS, and read over the link."""

import random

import pytest

from bench.far_store import CopyFailed, FarStore
from bench.link_emulator import Link
from bench.store_access import StoreAccess
from hotstart.core.digest import Digest
from hotstart.core.progress import NullSink
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store

pytestmark = pytest.mark.s3

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
NAME = ReferenceName.parse("team/app:v1")


@pytest.fixture
def source(tmp_path):
    store = open_store(f"file://{tmp_path}/source")
    contents = [random.Random(n).randbytes(n * 300_000 + 1) for n in range(4)]
    digests = [Digest.of(content) for content in contents]
    for digest, content in zip(digests, contents, strict=True):
        store.blobs.put(digest, content)
    target = Descriptor("application/octet-stream", digests[0], len(contents[0]))
    store.references.swap(NAME, target, None)
    return StoreAccess(store.url, ENVIRONMENT), dict(zip(digests, contents, strict=True))


def test_a_copied_store_is_read_whole_over_the_link_and_counted(source, tmp_path, monkeypatch):
    access, contents = source
    with FarStore(tmp_path / "far", Link(1, 0), ENVIRONMENT) as far:
        total = far.fill(access, NullSink())
        assert total == sum(map(len, contents.values()))
        assert far.link.count().bytes_down == 0
        for name, value in far.access.env.items():
            monkeypatch.setenv(name, value)
        store = open_store(far.access.url)
        for digest, content in contents.items():
            assert bytes(store.blobs.read(digest)) == content
        assert store.references.get(NAME).target.digest == next(iter(contents))
        assert far.link.count().bytes_down >= total
        with pytest.raises(CopyFailed, match="exit status"):
            far.fill(access, NullSink())
