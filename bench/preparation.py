"""What a run measures: the image, its snapshot, and further builds of the image.

Everything lies below the run's scratch directory and belongs to the run.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from agent.client import Listener
from agent.values import SnapshotReport
from bench.bench_agent import BenchAgent, remove_container
from bench.product import container_name, free_port
from bench.question import Question
from bench.workload.tree import DemoTree
from hotstart.core.progress import ProgressSink
from hotstart.kernel.mounts import overlay, unmount
from hotstart.store.manifest import ImageManifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import Store, open_store
from image_builder.build import build
from image_builder.options import BuildOptions, BuildResult
from runtime.container_spec import ContainerSpec, PortMapping

IMAGE = "bench/embedding:v1"
CHANGED_IMAGE = "bench/embedding:v2"
SNAPSHOT = "bench/embedding-hot:v1"
ROUND = "hotstart.bench.round"
START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """What the builds tell; sizes in bytes, rates in megabytes (10^6) of input a second and core.

    The first build reads the tree from the disk, and takes memory that nobody has used for long;
    the other rate is the median of ``builds`` later ones, out of the page cache.
    """

    input_bytes: int
    stored_bytes: int
    first_mb_per_s_per_core: float
    mb_per_s_per_core: float
    builds: int
    rebuild_uploaded_bytes: int
    rebuild_share: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures as the result document has them."""
        return {
            "image_input_bytes": self.input_bytes,
            "image_stored_bytes": self.stored_bytes,
            "build_first_mb_per_s_per_core": round(self.first_mb_per_s_per_core, 1),
            "build_mb_per_s_per_core": round(self.mb_per_s_per_core, 1),
            "builds": self.builds,
            "rebuild_uploaded_bytes": self.rebuild_uploaded_bytes,
            "rebuild_upload_share": round(self.rebuild_share, 5),
        }


def build_image(tree: DemoTree, store: Store, progress: ProgressSink) -> BuildResult:
    """Build the demo image under ``IMAGE``."""
    return build(str(tree.root), store, reference=IMAGE, options=_options(tree), progress=progress)


def add_unrecorded(store: Store, rounds: int) -> None:
    """Name the demo image once more for each round, by a manifest of its own.

    A trace belongs to a manifest, and a first start records one: so each start finds none.
    """
    name = ReferenceName.parse(IMAGE)
    content = bytes(store.blobs.read(store.references.get(name).target.digest))
    manifest = ImageManifest.parse(content)
    for number in range(rounds):
        other = replace(manifest, annotations={**manifest.annotations, ROUND: str(number)})
        target = other.descriptor()
        store.blobs.put(target.digest, other.to_bytes())
        store.references.swap(ReferenceName.parse(unrecorded_image(number)), target, None)


def unrecorded_image(round_number: int) -> str:
    """Return the name of the image that no start has been recorded of before this round."""
    return f"bench/embedding-unrecorded:r{round_number}"


def rebuild_changed(
    tree: DemoTree, store: Store, scratch: Path, progress: ProgressSink
) -> BuildResult:
    """Build the image again after one file of it was changed, on top of the first build."""
    changed = scratch / "changed"
    parts = {name: changed / name for name in ("merged", "upper", "work")}
    for part in parts.values():
        part.mkdir(parents=True)
    with ExitStack() as stack:
        overlay([tree.root], parts["upper"], parts["work"], parts["merged"])
        stack.callback(unmount, parts["merged"], detach=True)
        _change(parts["merged"] / tree.argv[-1].lstrip("/"))
        return build(
            str(parts["merged"]),
            store,
            reference=CHANGED_IMAGE,
            options=_options(tree, base=IMAGE),
            progress=progress,
        )


def _change(path: Path) -> None:
    with path.open("a") as file:
        file.write("\n# One line more than before.\n")


def _options(tree: DemoTree, base: str | None = None) -> BuildOptions:
    environment = tuple(f"{name}={value}" for name, value in tree.environment.items())
    return BuildOptions(command=tree.argv, environment=environment, base=base)


def build_again(
    tree: DemoTree, scratch: Path, progress: ProgressSink, rounds: int
) -> list[BuildResult]:
    """Build the demo image ``rounds`` times more, each time into a store of its own."""
    found = []
    for _ in range(rounds):
        place = scratch / "built-again"
        found.append(build_image(tree, open_store(f"file://{place}"), progress))
        shutil.rmtree(place)
    return found


def build_figures(
    first: BuildResult, again: Sequence[BuildResult], changed: BuildResult
) -> BuildFigures:
    """Return what the first build, those of the same input, and the one after a change say."""
    return BuildFigures(
        input_bytes=first.stats.input_bytes,
        stored_bytes=first.stats.uploaded_bytes,
        first_mb_per_s_per_core=_rate(first),
        mb_per_s_per_core=statistics.median(_rate(one) for one in again),
        builds=len(again),
        rebuild_uploaded_bytes=changed.stats.uploaded_bytes,
        rebuild_share=changed.stats.uploaded_bytes / first.stats.uploaded_bytes,
    )


def _rate(built: BuildResult) -> float:
    cores = len(os.sched_getaffinity(0))
    return built.stats.input_bytes / built.stats.elapsed_s / cores / 1e6


def golden_request(question: Question) -> str:
    """Return the golden request file that asks ``question`` and compares the vector."""
    return json.dumps(
        {
            "method": "POST",
            "path": question.path,
            "port": question.port,
            "headers": {"Content-Type": "application/json"},
            "body": question.body().decode(),
            "expect": {"mode": "json", "paths": ["vector"], "tolerance": question.tolerance},
        }
    )


def take_snapshot(
    running: BenchAgent, questions: Sequence[Question], ready: str, progress: ProgressSink
) -> SnapshotReport:
    """Start the image cold, which records its trace, and publish its snapshot."""
    client, url = running.client, running.store.url
    port = free_port()
    name = container_name(port)
    ports = (PortMapping(port, questions[0].port),)
    spec = ContainerSpec(name=name, ports=ports, ready=ready, ready_timeout_s=START_TIMEOUT_S)
    listener = Listener(progress)
    try:
        client.run(url, IMAGE, spec=spec, no_snapshot=True, listener=listener)
        goldens = [golden_request(question) for question in questions]
        return client.snapshot(url, name, SNAPSHOT, goldens=goldens, listener=listener)
    finally:
        remove_container(client, name)
