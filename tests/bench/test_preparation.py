"""Figures of the builds."""

import os
from types import SimpleNamespace

from bench.preparation import build_figures


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
