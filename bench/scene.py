"""What a run of ``cold-start`` measures in: peers, an agent with the snapshot, a far store.

``set_up`` makes everything once and puts what must be undone on the caller's stack. A scene is
plain values afterwards; it opens nothing by itself.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.values import SnapshotReport
from bench import preparation
from bench.bench_agent import BenchAgent
from bench.cold_start_options import FAR_PATHS, ColdStartOptions
from bench.far_store import FarStore
from bench.peer_container import PeerProgram
from bench.peers import PeerStage
from bench.question import Question
from bench.store_access import StoreAccess
from bench.workload.tree import DemoTree, ensure_tree
from hotstart.core.progress import ProgressSink
from hotstart.store.stack import open_store

RECORDED = (
    "hello snapshot world",
    "How long does a container take until it gives its first answer?",
    "A snapshot holds the memory of a process that is warm: its imports are done, its weights are "
    "mapped, its threads wait. A node that never saw it reads 10.6 MB of 282 MB of that memory, "
    "and 58 MB of files, before the first request is answered (3.8 % of everything); the rest is "
    "read behind, or never. Café, naïve, 東京: tokens of other kinds are in here as well.",
)
"""The golden requests. The first of them is the one that is measured."""

UNRECORDED = (
    "Rain fell on the harbour all night; by morning the ferries ran late, and nobody on the quay "
    "could say whether the 7:40 to the islands would leave before noon."
)

PROGRAMS = ("runc", "conmon", "ip", "nft")
"""Programs of the host that starts need: kept in the page cache while images are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that paths are made from."""

    scratch: Path
    tree: DemoTree
    ready: str
    stage: PeerStage
    recorded: tuple[Question, ...]
    unrecorded: Question
    agent: BenchAgent
    far: FarStore | None
    store_bytes: int
    """All blobs of image and snapshot, as stored."""
    criu: Path
    figures: dict[str, Any]

    def kept_files(self) -> tuple[Path, ...]:
        """Return what an emptied page cache must not make slow for other paths."""
        programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name)) is not None]
        far = () if self.far is None else (self.far.directory,)
        return (*programs, self.criu.parents[1], *far)


def set_up(
    options: ColdStartOptions, scratch: Path, progress: ProgressSink, stack: ExitStack
) -> Scene:
    """Build, ask, capture, publish and copy. Raises HotstartError, OSError."""
    tree = ensure_tree(options.cache, progress)
    stage, questions = _peers(options, tree, scratch, stack)
    ready = f"http://127.0.0.1:{tree.port}{tree.health_path}"
    store = open_store(f"file://{scratch}/store")
    built = preparation.build_image(tree, store, progress)
    agent = stack.enter_context(
        BenchAgent(scratch / "a", StoreAccess(store.url, options.environment))
    )
    snapshot = preparation.take_snapshot(agent, questions[:-1], ready, progress)
    figures = _snapshot_figures(snapshot)
    for reference in (preparation.IMAGE, preparation.SNAPSHOT):
        agent.client.pull(store.url, reference)
    far, store_bytes = None, 0
    if any(options.wants(name) for name in FAR_PATHS):
        preparation.add_unrecorded(store, options.rounds)
        far = stack.enter_context(FarStore(scratch / "far", options.link, options.environment))
        store_bytes = far.fill(agent.store, progress)
        figures["store_bytes"] = store_bytes
    if options.figures:
        changed = preparation.rebuild_changed(tree, store, scratch, progress)
        again = preparation.build_again(tree, scratch, progress, options.rounds)
        figures |= preparation.build_figures(built, again, changed).as_dict()
    return Scene(
        scratch=scratch,
        tree=tree,
        ready=ready,
        stage=stage,
        recorded=questions[:-1],
        unrecorded=questions[-1],
        agent=agent,
        far=far,
        store_bytes=store_bytes,
        criu=options.criu,
        figures=figures,
    )


def _peers(
    options: ColdStartOptions, tree: DemoTree, scratch: Path, stack: ExitStack
) -> tuple[PeerStage, tuple[Question, ...]]:
    """Set the peers up; return them, and all questions with their reference answers."""
    environ = tuple(f"{name}={value}" for name, value in tree.environment.items())
    program = PeerProgram(tree.root, tree.argv, environ)
    stage = stack.enter_context(PeerStage(scratch / "peers", program, options.criu))
    asked = [
        Question(text, port=tree.port, path=tree.embed_path) for text in (*RECORDED, UNRECORDED)
    ]
    answered = stage.answers(asked, options.timeout_s)
    if options.wants("criu-plain"):
        stage.capture(answered[0], options.timeout_s)
    return stage, tuple(answered)


def _snapshot_figures(report: SnapshotReport) -> dict[str, Any]:
    return {
        "snapshot_verdict": report.verdict,
        "snapshot_stateless": report.stateless,
        "snapshot_size_bytes": report.size_bytes,
        "snapshot_uploaded_bytes": report.uploaded_bytes,
        "snapshot_frozen_ms": round(report.frozen_ms, 1),
        "snapshot_elapsed_ms": round(report.elapsed_ms, 1),
    }
