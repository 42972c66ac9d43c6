"""The bare loop fetches the whole of an image over the link, and leaves nothing."""

import random

import pytest

from bench import bare_pull
from bench.bare_pull import bare_pull_ms, image_devices, pull_figures
from bench.far_store import FarStore
from bench.fs.raw_client import RawClient
from bench.link_emulator import Link
from bench.samples import Sample
from bench.store_access import StoreAccess
from hotstart.core.progress import NullSink
from hotstart.store.stack import open_store
from image_builder.build import build
from image_builder.options import BuildOptions

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.mark.s3
def test_the_bare_loop_fetches_every_stored_byte_of_the_image_over_the_link(tmp_path, monkeypatch):
    content = random.Random(1).randbytes(3_000_000)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(content)
    # Chunks of b are chunks of a: stored and fetched once.
    contents = {b"a": content, b"b": content[:2_500_000]}
    (tmp_path / "tree/b").write_bytes(contents[b"b"])
    store = open_store(f"file://{tmp_path}/source")
    options = BuildOptions(command=("/a",), extents_for=(b"a", b"b"))
    built = build(str(tmp_path / "tree"), store, reference="app:v1", options=options)
    kept = {}
    fetch = RawClient.fetch

    def fetch_and_keep(client, file, target):
        fetch(client, file, target)
        kept[target] = target.read_bytes()

    monkeypatch.setattr(bare_pull.RawClient, "fetch", fetch_and_keep)
    with FarStore(tmp_path / "far", Link(1, 0), ENVIRONMENT) as far:
        far.fill(StoreAccess(store.url, ENVIRONMENT), NullSink())
        assert bare_pull_ms(far, store.url, "app:v1", tmp_path) > 0
        fetched = far.link.count().bytes_down
    (device,) = kept.values()
    for name, wanted in contents.items():
        start = built.extents[name].offset
        assert device[start : start + len(wanted)] == wanted
    assert built.stats.repeated_chunks > 1
    assert 3_000_000 <= fetched < 3_500_000
    assert len(image_devices(store.url, "app:v1")) == 1
    assert list(tmp_path.glob("bare-*")) == []


def test_our_pull_stands_beside_the_bare_loop():
    def sample(path, pull_ms, **fields):
        phases = {"pull_ms": pull_ms}
        return Sample(path=path, round=0, ready_ms=9, wall_ms=9, phases=phases, **fields)

    samples = [
        sample("pull-and-cold", 300.0),
        sample("pull-and-cold", 100.0),
        sample("pull-and-cold", 200.0),
        sample("pull-and-cold", 1.0, answer_ok=False),
        sample("lazy-cold-unrecorded", 1.0),
    ]
    assert pull_figures(160.0, samples) == {
        "bare_pull_ms": 160.0,
        "pull_ms": 200.0,
        "pull_over_bare_pull": 1.25,
    }
    assert pull_figures(160.0, []) == {"bare_pull_ms": 160.0}
