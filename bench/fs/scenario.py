"""The scenario ``fs``: the same files through every file system and client, in interleaved rounds.

``run_fs`` makes the files, an image of them, an S3 server with both, and measures every workload
once a round over every path. All of it lies in one scratch directory, which is gone afterwards, as
are all processes and mounts. Needs root. docs/benchmarks/fs.md says what each workload is.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import obstore

from bench import environment
from bench.far_store import BUCKET, FarStore
from bench.fs import programs
from bench.fs.document import document
from bench.fs.file_systems import IMAGE, Ext4, FileSystem, Hotstart, Rclone, S3fs
from bench.fs.interpreter import interpreter
from bench.fs.mount_scale import MountScale
from bench.fs.options import LINKS, WORKLOADS, FsOptions
from bench.fs.programs import Program
from bench.fs.raw_client import TUNINGS, ImageFile, RawClient, open_bucket
from bench.fs.source import SEQUENTIAL, Source, make_source
from bench.fs.stage import Client, Scene, Stage
from bench.fs.workloads import PLAIN_BUCKET, Workloads
from bench.page_cache import PageCache
from bench.rounds import run_round
from bench.samples import Sample
from bench.store_access import StoreAccess
from bench.workload.tree import PACKAGES, ensure_tree
from hotstart.core.errors import HotstartError, Unsupported
from hotstart.core.log import get_logger
from hotstart.core.progress import Progress, ProgressSink
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.stack import open_store
from image_builder.build import build
from image_builder.options import BuildOptions

log = get_logger(__name__)

_UPLOADS = 16


def run_fs(options: FsOptions, progress: ProgressSink) -> dict[str, Any]:
    """Measure and return the result document. Raises UserError, HotstartError, OSError."""
    options.check()
    started_s = time.monotonic()
    with ExitStack() as stack:
        # Short, since sockets lie in it (unix(7): 108 bytes).
        scratch = Path(tempfile.mkdtemp(prefix="hsf-", dir=options.scratch))
        stack.callback(shutil.rmtree, scratch)
        facts = environment.collect(scratch, options.command, None)
        found, absent = _programs()
        facts["versions"] |= {name: program.version for name, program in found.items()}
        samples: list[Sample] = []
        tunings: dict[str, str] = {}
        if any(options.wants(name) for name in WORKLOADS[:-1]):
            scene = _set_up(options, scratch, found, progress, stack)
            tunings = {client.link: str(client.raw.tuning) for client in scene.clients}
            samples += _rounds(scene, options, progress)
        if options.wants("mount"):
            samples += _mounts(options, scratch, progress)
        facts["load_average_after"] = environment.load_average()
        facts["elapsed_s"] = round(time.monotonic() - started_s)
    return document(facts, options, samples, absent, tunings)


def _programs() -> tuple[dict[str, Program], dict[str, str]]:
    """Return the peers' programs that are here, and why the others are not."""
    found, absent = {}, {}
    for name in programs.PACKAGES:
        try:
            found[name] = programs.find(name)
        except Unsupported as err:
            absent[name] = str(err)
    return found, absent


def _rounds(scene: Scene, options: FsOptions, progress: ProgressSink) -> list[Sample]:
    samples: list[Sample] = []
    reference = scene.interpreter.load(scene.source.tree)
    ends_s = time.monotonic() + options.minutes * 60 if options.minutes else math.inf
    for number in range(options.rounds):
        began_s = time.monotonic()
        with Stage(scene, scene.scratch / f"r{number}") as stage:
            workloads = Workloads(scene, stage, reference)
            for name in WORKLOADS[:-1]:
                if options.wants(name):
                    samples += run_round(workloads.of(name), number, options.rounds, progress)
        now_s = time.monotonic()
        if number + 1 < options.rounds and now_s + (now_s - began_s) > ends_s:
            log.warning("rounds_ended_early", done=number + 1, minutes=options.minutes)
            break
    return samples


def _mounts(options: FsOptions, scratch: Path, progress: ProgressSink) -> list[Sample]:
    place = scratch / "s"
    place.mkdir()
    scale = MountScale(place, StoreAccess("", options.environment), options.sizes)
    scale.build(progress)
    samples: list[Sample] = []
    for number in range(options.rounds):
        try:
            samples += scale.measure(number)
        except HotstartError as err:  # an agent that does not start costs one round only
            log.warning("mounts_not_measured", round=number, reason=str(err))
        progress.update(Progress("mounts", number + 1, options.rounds, "rounds", finished=True))
    return samples


def _set_up(
    options: FsOptions,
    scratch: Path,
    found: dict[str, Program],
    progress: ProgressSink,
    stack: ExitStack,
) -> Scene:
    demo = ensure_tree(options.cache, progress).root if options.sizes.torch else None
    packages = None if demo is None else demo / PACKAGES
    source = make_source(scratch / "tree", options.sizes, packages)
    store = StoreAccess(f"file://{scratch}/store", options.environment)
    image = _build(source, store, progress)
    far = stack.enter_context(FarStore(scratch / "far", options.link, options.environment))
    far.fill(store, progress)
    shutil.rmtree(scratch / "store")
    far.make_bucket(PLAIN_BUCKET)
    _upload(source.tree, far.endpoints["loopback"], progress)
    clients = tuple(_client(link, far.endpoints[link], image, scratch) for link in LINKS)
    local = source.tree / "packages"
    return Scene(
        scratch=scratch,
        sizes=options.sizes,
        source=source,
        image=image,
        systems=_systems(source, far, found),
        clients=clients,
        s5cmd=found.get("s5cmd"),
        interpreter=interpreter(demo, local, scratch / "python", stack),
        cache=PageCache((far.directory,)),
    )


def _build(source: Source, store: StoreAccess, progress: ProgressSink) -> dict[str, ImageFile]:
    """Build the image; return where the files lie in it that clients fetch."""
    names = [*source.digests, *source.first]
    opened = open_store(store.url)
    options = BuildOptions(extents_for=tuple(os.fsencode(name) for name in names))
    built = build(str(source.tree), opened, reference=IMAGE, options=options, progress=progress)
    table = built.manifest.devices[0].table
    chunks = ChunkTable.of_bytes(bytes(opened.blobs.read(table.digest)))
    return {name: ImageFile(built.extents[os.fsencode(name)], chunks) for name in names}


def _upload(tree: Path, endpoint: str, progress: ProgressSink) -> None:
    objects = open_bucket(endpoint, PLAIN_BUCKET)
    paths = [path for path in tree.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(_UPLOADS) as pool:
        list(pool.map(lambda p: obstore.put(objects, str(p.relative_to(tree)), p), paths))
    progress.update(Progress("plain objects", len(paths), len(paths), "objects", finished=True))


def _client(link: str, endpoint: str, image: dict[str, ImageFile], scratch: Path) -> Client:
    """Return the clients of a link, the raw one with the tuning that is quickest there."""
    objects = open_bucket(endpoint, BUCKET)
    target = scratch / "tuning"

    def elapsed_s(client: RawClient) -> float:
        started_s = time.perf_counter()
        client.fetch(image[SEQUENTIAL], target)
        elapsed = time.perf_counter() - started_s
        target.unlink()
        return elapsed

    tried = [RawClient(objects, "store", tuning) for tuning in TUNINGS]
    elapsed_s(tried[0])
    best = min(tried, key=lambda client: min(elapsed_s(client), elapsed_s(client)))
    return Client(link=link, endpoint=endpoint, raw=best, plain=open_bucket(endpoint, PLAIN_BUCKET))


def _systems(source: Source, far: FarStore, found: dict[str, Program]) -> list[FileSystem]:
    systems: list[FileSystem] = [Ext4(source.tree)]
    access = {"loopback": far.direct, "link": far.access}
    for link in LINKS:
        systems.append(Hotstart("hotstart", link, access[link], "fanotify"))
        systems.append(Hotstart("hotstart-fuse", link, access[link], "fuse"))
        if "rclone" in found:
            systems.append(Rclone(link, far.endpoints[link], PLAIN_BUCKET, found["rclone"]))
        if "s3fs" in found:
            systems.append(S3fs(link, far.endpoints[link], PLAIN_BUCKET, found["s3fs"]))
    return systems
