"""The scenario ``cold-start``: from the request to the first correct answer, by every path.

``run_cold_start`` sets a scene up (bench.scene), measures every path in interleaved rounds, and
returns the result document. All of it lies in one scratch directory, which is gone afterwards, as
are all processes, mounts and namespaces, also after a failure or an interrupt. Needs root.
docs/benchmarks/cold-start.md says what each path is.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import environment
from bench.bare_pull import bare_pull_ms, pull_figures
from bench.cold_start_options import FAR_PATHS, LEAST_ROUNDS, ORDER, ColdStartOptions
from bench.extras import import_figures, warm_read_figures
from bench.page_cache import PageCache
from bench.peers import PeerPath
from bench.preparation import IMAGE, SNAPSHOT, unrecorded_image
from bench.product import ProductPath, empty_node, warm_node
from bench.rounds import Cold, MeasuredPath, Warm, run_rounds
from bench.samples import Sample, ratios, summarize
from bench.scene import Scene, set_up
from bench.targets import outcomes
from hotstart.core.progress import ProgressSink

SCENARIO = "cold-start"


def run_cold_start(options: ColdStartOptions, progress: ProgressSink) -> dict[str, Any]:
    """Measure and return the result document. Raises UserError, HotstartError, OSError."""
    options.check()
    with ExitStack() as stack:
        # Short, since sockets lie in it (unix(7): 108 bytes).
        scratch = Path(tempfile.mkdtemp(prefix="hsb-", dir=options.scratch))
        stack.callback(shutil.rmtree, scratch)
        facts = environment.collect(scratch, options.command, options.criu)
        scene = set_up(options, scratch, progress, stack)
        facts["versions"]["torch"] = scene.tree.torch
        samples = run_rounds(paths_of(scene, options), options.rounds, progress)
        extra = scene.figures | fetched_shares(samples, scene.store_bytes)
        if options.figures:
            extra |= _pull_figures(scene, options, samples)
            extra |= _mount_figures(scene, options)
        facts["load_average_after"] = environment.load_average()
    return document(facts, options.link.as_dict(), samples, extra)


def document(
    facts: Mapping[str, Any],
    link: Mapping[str, Any],
    samples: Sequence[Sample],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the result document of a run."""
    summary = summarize(samples)
    result = {
        "scenario": SCENARIO,
        "environment": dict(facts),
        "link": dict(link),
        "samples": [sample.as_dict() for sample in samples],
        "summary": {name: summary[name] for name in ORDER if name in summary},
        "ratios": ratios(summary),
        "extra": dict(extra),
    }
    return result | {"targets": outcomes(result)}


def paths_of(scene: Scene, options: ColdStartOptions) -> list[MeasuredPath]:
    """Return the paths that were asked for, in the order of a round."""
    cache = PageCache(scene.kept_files())
    made = _peer_paths(scene, options, cache) | _warm_paths(scene, options, cache)
    if scene.far is not None:
        made |= _far_paths(scene, options)
    return [made[name] for name in ORDER if name in made and options.wants(name)]


def _peer_paths(
    scene: Scene, options: ColdStartOptions, cache: PageCache
) -> dict[str, MeasuredPath]:
    stage, question, timeout_s = scene.stage, scene.recorded[0], options.timeout_s

    def peer(name: str, verb: str = "run", emptied: PageCache | None = None) -> PeerPath:
        return PeerPath(name, stage, question, verb, emptied, timeout_s)

    return {
        "cold": Warm(peer("cold"), cache),
        "criu-plain": Warm(peer("criu-plain", "restore"), cache),
        "cold-empty-cache": Cold(peer("cold-empty-cache", emptied=cache), cache),
    }


def _warm_paths(
    scene: Scene, options: ColdStartOptions, cache: PageCache
) -> dict[str, MeasuredPath]:
    node = warm_node(scene.agent)

    def restore(name: str, emptied: PageCache | None = None) -> ProductPath:
        return ProductPath(
            name=name,
            node=node,
            verb="restore",
            reference=SNAPSHOT,
            question=scene.recorded[0],
            emptied=emptied,
            timeout_s=options.timeout_s,
        )

    cold = ProductPath(
        name="hotstart-cold",
        node=node,
        verb="run",
        reference=IMAGE,
        question=scene.recorded[0],
        ready=scene.ready,
        timeout_s=options.timeout_s,
    )
    return {
        "hotstart-cold": Warm(cold, cache),
        "restore": Warm(restore("restore"), cache),
        "restore-empty-cache": Cold(restore("restore-empty-cache", cache), cache),
    }


def _far_paths(scene: Scene, options: ColdStartOptions) -> dict[str, MeasuredPath]:
    if scene.far is None:
        return {}
    far = scene.far
    node = empty_node(scene.scratch / "n", far.access, scene.agent.node_key)

    base = ProductPath(
        name="",
        node=node,
        verb="restore",
        reference=SNAPSHOT,
        question=scene.recorded[0],
        link=far.link,
        timeout_s=options.timeout_s,
    )
    cold = replace(base, verb="run", reference=IMAGE, ready=scene.ready)
    unrecorded = "restore-empty-node-unrecorded"
    return {
        "pull-and-cold": replace(cold, name="pull-and-cold", pull_first=True),
        "lazy-cold": replace(cold, name="lazy-cold", phase="prefetch_ms"),
        "lazy-cold-unrecorded": replace(
            cold,
            name="lazy-cold-unrecorded",
            reference_of_round=unrecorded_image,
            phase="pull_ms",
        ),
        "restore-empty-node": replace(base, name="restore-empty-node"),
        unrecorded: replace(base, name=unrecorded, question=scene.unrecorded),
    }


def fetched_shares(samples: Sequence[Sample], store_bytes: int) -> dict[str, float]:
    """Return which share of image and snapshot each far path had fetched at its first answer."""
    if not store_bytes:
        return {}
    names = {
        "restore-empty-node": "empty_node_fetched_share",
        "restore-empty-node-unrecorded": "empty_node_unrecorded_fetched_share",
        "lazy-cold": "lazy_cold_fetched_share",
    }
    shares = {}
    for path in FAR_PATHS:
        fetched = [s.fetched_bytes for s in samples if s.path == path and s.answer_ok]
        if path in names and fetched:
            shares[names[path]] = round(statistics.median(fetched) / store_bytes, 4)
    return shares


def _pull_figures(
    scene: Scene, options: ColdStartOptions, samples: Sequence[Sample]
) -> dict[str, float]:
    if scene.far is None or not options.wants("pull-and-cold"):
        return {}
    return pull_figures(
        bare_pull_ms(scene.far, scene.agent.store.url, IMAGE, scene.scratch), samples
    )


def _mount_figures(scene: Scene, options: ColdStartOptions) -> dict[str, float]:
    """Compare the mounted image with the unpacked tree, both warm."""
    target = scene.scratch / "mounted"
    target.mkdir()
    client = scene.agent.client
    client.mount(scene.agent.store.url, IMAGE, target)
    try:
        rounds = max(options.rounds, LEAST_ROUNDS)
        reads = warm_read_figures(scene.tree.root, target, rounds)
        return reads | import_figures(scene.tree, target, scene.stage, rounds)
    finally:
        client.umount(target)
