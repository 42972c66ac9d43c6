"""What a run measures, made once: the image, its snapshot, and a second build of the image.

Everything lies below the run's scratch directory and belongs to the run. The builds here are also
what the build figures are taken from: nothing is built twice for a number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.client import Listener
from agent.values import SnapshotReport
from bench.bench_agent import BenchAgent, remove_container
from bench.product import container_name, free_port
from bench.question import Question
from bench.workload.tree import DemoTree
from hotstart.core.progress import ProgressSink
from hotstart.kernel.mounts import overlay, unmount
from hotstart.store.stack import Store
from image_builder.build import build
from image_builder.options import BuildOptions, BuildResult
from runtime.container_spec import ContainerSpec, PortMapping

IMAGE = "bench/embedding:v1"
CHANGED_IMAGE = "bench/embedding:v2"
SNAPSHOT = "bench/embedding-hot:v1"
START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """What the two builds tell; sizes in bytes, rate in megabytes (10^6) a second."""

    input_bytes: int
    stored_bytes: int
    mb_per_s_per_core: float
    rebuild_uploaded_bytes: int
    rebuild_share: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures as the result document has them."""
        return {
            "image_input_bytes": self.input_bytes,
            "image_stored_bytes": self.stored_bytes,
            "build_mb_per_s_per_core": round(self.mb_per_s_per_core, 1),
            "rebuild_uploaded_bytes": self.rebuild_uploaded_bytes,
            "rebuild_upload_share": round(self.rebuild_share, 5),
        }


def build_image(tree: DemoTree, store: Store, progress: ProgressSink) -> BuildResult:
    """Build the demo image under ``IMAGE``."""
    return build(str(tree.root), store, reference=IMAGE, options=_options(tree), progress=progress)


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


def build_figures(first: BuildResult, second: BuildResult) -> BuildFigures:
    """Return what the first build and the build after one change say."""
    cores = len(os.sched_getaffinity(0))
    rate = first.stats.input_bytes / first.stats.elapsed_s / cores / 1e6
    return BuildFigures(
        input_bytes=first.stats.input_bytes,
        stored_bytes=first.stats.uploaded_bytes,
        mb_per_s_per_core=rate,
        rebuild_uploaded_bytes=second.stats.uploaded_bytes,
        rebuild_share=second.stats.uploaded_bytes / first.stats.uploaded_bytes,
    )


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
