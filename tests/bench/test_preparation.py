"""Figures of the builds, and images without a trace."""

import os
from types import SimpleNamespace

from bench.preparation import IMAGE, add_unrecorded, build_figures, unrecorded_image
from hotstart.core.span import PAGE
from hotstart.store.manifest import ImageManifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store
from hotstart.store.trace import Trace, TraceSpan
from hotstart.store.traces import add_trace, read_trace
from image_builder.build import build
from image_builder.options import BuildOptions


def built(elapsed_s, uploaded_bytes=50_000_000):
    stats = SimpleNamespace(
        input_bytes=100_000_000, elapsed_s=elapsed_s, uploaded_bytes=uploaded_bytes
    )
    return SimpleNamespace(stats=stats)


def test_the_rate_is_the_median_of_warm_builds_and_the_first_stands_beside_it(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    again = [built(1.0), built(0.25), built(0.5)]
    figures = build_figures(built(2.0), again, built(1.0, uploaded_bytes=500_000)).as_dict()
    assert figures["build_mb_per_s_per_core"] == 100.0
    assert figures["build_first_mb_per_s_per_core"] == 25.0
    assert figures["builds"] == 3
    assert figures["rebuild_upload_share"] == 0.01


def test_each_round_has_an_image_of_the_same_bytes_that_no_start_is_recorded_of(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(64 * PAGE))
    store = open_store(f"file://{tmp_path}/store")
    built = build(str(tree), store, reference=IMAGE, options=BuildOptions(command=("/file",)))
    (device,) = built.manifest.devices
    span = TraceSpan(0, 0, 0, 2)
    add_trace(store, built.descriptor.digest, Trace((device.device_id,), (span,)), (device,))
    add_unrecorded(store, 3)
    found = [
        store.references.get(ReferenceName.parse(unrecorded_image(number))).target.digest
        for number in range(3)
    ]
    assert len({*found, built.descriptor.digest}) == 4
    assert read_trace(store, built.descriptor.digest) is not None
    for digest in found:
        assert read_trace(store, digest) is None
        manifest = ImageManifest.parse(bytes(store.blobs.read(digest)))
        assert manifest.blobs() == built.manifest.blobs()
